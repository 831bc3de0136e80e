"""The table of methods: every way to find directions, what it needs and what it costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One way to find directions.

    Attributes:
        name: a word, by which `pullback directions find` knows it where it has it.
        function: the public function, with its package.
        finds: what its directions are, in one line.
        space: the spaces that they may lie in: "x", "h" or "prompt".
        needs: what it needs beside a model and latents: "samples", "labels", "a mask" or "a target
            condition"; empty for nothing.
        moves: "one sample", at whose latents it is found, or "all samples".
        cost: in walks of samples, in products with a Jacobian, or in neither.
        source: authors, year and arXiv number.
    """

    name: str
    function: str
    finds: str
    space: tuple[str, ...]
    needs: tuple[str, ...]
    moves: str
    cost: str
    source: str


class Methods(tuple[Method, ...]):
    """Rows of the table of methods, in order; `str` makes a table of them."""

    def __str__(self) -> str:
        lines = [("method", "finds", "in", "of", "needs", "cost")]
        lines += [
            (one.name, one.finds, ", ".join(one.space), one.moves, _needs(one), one.cost)
            for one in self
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def available() -> Methods:
    """Every way to find directions, with what it needs, what it costs and where it is from.

    Returns:
        The rows; `print` shows them as a table.
    """
    return _METHODS


def _needs(method: Method) -> str:
    return ", ".join(method.needs) or "nothing"


_LATENTS, _FEATURES, _ANY = ("x",), ("h",), ("x", "h", "prompt")
_ONE, _ALL = "one sample", "all samples"

_PARK = "Park et al. 2023, arXiv:2307.12868"
_HAAS = "Haas et al. 2023, arXiv:2303.11073"
_ZHU = "Zhu et al. 2023, arXiv:2302.08357"
_ANAND = "Anand et al. 2025, arXiv:2510.22650"
_CHEN = "Chen et al. 2024, arXiv:2409.02374"

_METHODS = Methods(
    (
        Method(
            "pullback", "pullback.local_basis", "what of x_t changes h most", ("x", "h"), (), _ONE,
            "8 to 12 products a direction", _PARK,
        ),
        Method(
            "global", "pullback.global_directions", "means of the bases of many samples",
            ("x", "h"), ("samples",), _ALL, "the basis of every sample", _PARK,
        ),
        Method(
            "metric", "pullback.mean_metric", "what of x_t changes h most, on average", _LATENTS,
            ("samples",), _ALL, "8 to 12 products a direction and sample", _PARK,
        ),
        Method(
            "pca", "pullback.directions.pca", "principal components of h along trajectories",
            _FEATURES, ("samples",), _ALL, "a walk a sample", _HAAS,
        ),
        Method(
            "spectral", "pullback.directions.spectral", "what of h changes the noise most",
            _FEATURES, (), _ONE, "8 to 12 products behind the tap", _HAAS,
        ),
        Method(
            "supervised", "pullback.directions.supervised",
            "between two classes: mean, lda, logistic", _ANY, ("samples", "labels"), _ALL,
            "a walk a sample", _HAAS,
        ),
        Method(
            "pairs", "pullback.directions.from_pairs", "the mean difference of pairs", _ANY,
            ("samples", "labels"), _ALL, "two walks a pair", _HAAS,
        ),
        Method(
            "boundary", "pullback.directions.boundary", "the normal of a linear boundary", _ANY,
            ("samples", "labels"), _ALL, "a walk a sample", _ZHU,
        ),
        Method(
            "attention", "pullback.directions.attention", "eigenvectors of attention weights",
            _FEATURES, (), _ALL, "one eigendecomposition", _ANAND,
        ),
        Method(
            "local", "pullback.directions.local", "what changes a region and not the rest",
            _LATENTS, ("a mask",), _ONE, "products of two bases", _CHEN,
        ),
        Method(
            "toward", "pullback.directions.toward", "what moves a region to a condition", _LATENTS,
            ("a mask", "a target condition"), _ONE, "products of one basis", _CHEN,
        ),
    )
)  # fmt: skip
