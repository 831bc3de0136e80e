"""A pass of Cholesky QR, and passes until it is enough, as the mathematics has them."""

import numpy as np
import pytest

from tests.pullback_ext.adversarial import away, kahan
from tests.pullback_ext.numerics import COMPILER, CholeskyQr, orthonormal

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.mark.parametrize("k", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("p", [0, 1, 7])
def test_a_pass_is_cholesky_qr_of_the_projected_block(k, p):
    rng = np.random.default_rng(k + p)
    others, block = orthonormal(rng, p, 300), rng.standard_normal((k, 300))
    state = CholeskyQr(k, p, single=False)
    transform, last = state.one_pass(block @ block.T, block @ others.T, 1)
    q = transform @ np.vstack([block, others])
    np.testing.assert_allclose(q @ q.T, np.eye(k), atol=1e-13)
    np.testing.assert_allclose(q @ others.T, 0, atol=1e-13)
    assert np.all(np.triu(transform[:, :k], 1) == 0)
    assert np.all(np.diag(transform[:, :k]) > 0)
    assert last == (p == 0)  # with others: twice, always
    assert not state.given_up.any()
    assert not state.replaced.any()
    back = state.residual @ q + state.projection.T @ others
    np.testing.assert_allclose(back, block, atol=1e-12)
    _, last = state.one_pass(q @ q.T, q @ others.T, 2)
    assert last


def test_weak_directions_are_amplified_and_not_replaced():
    rng = np.random.default_rng(0)
    rows = orthonormal(rng, 3, 200)
    block = np.stack([rows[0], rows[0] + 1e-5 * rows[1], rows[2] + rows[1]])
    state = CholeskyQr(3, 0)
    transform, last = state.one_pass(block @ block.T, np.zeros((3, 0)), 1)
    assert not last
    assert not state.given_up.any()
    q = transform @ block
    assert abs(q[1] @ q[0]) < 1e-7 * abs(q[1] @ rows[1])  # what is left is the weak direction ...
    assert transform[2, 1] == 0  # ... of which no other row has been freed yet
    for number in range(2, 5):
        transform, last = state.one_pass(q @ q.T, np.zeros((3, 0)), number)
        q = transform @ q
        if last:
            break
    np.testing.assert_allclose(q @ q.T, np.eye(3), atol=3e-6)
    np.testing.assert_allclose(np.abs(q @ rows.T).round(4), np.eye(3))
    np.testing.assert_allclose(state.residual @ q, block, atol=1e-6)
    assert not state.replaced.any()


def test_zero_and_dependent_rows_are_given_up():
    rng = np.random.default_rng(1)
    block = rng.standard_normal((5, 100))
    block[1] = 0
    block[3] = 2 * block[0]
    exponents = np.array([0, 0, 3, -2, 0], np.int32)
    state = CholeskyQr(5, 0, exponents)
    current, number, replaced = block, 1, np.zeros(5, bool)
    while True:
        transform, last = state.one_pass(current @ current.T, np.zeros((5, 0)), number)
        assert np.isfinite(transform).all()
        current = transform @ current
        current[state.given_up] = rng.standard_normal((state.given_up.sum(), 100)) / 10
        replaced |= state.given_up
        if last:
            break
        number += 1
    assert number < 8
    np.testing.assert_array_equal(state.replaced, [False, True, False, True, False])
    np.testing.assert_array_equal(state.replaced, replaced)
    np.testing.assert_allclose(current @ current.T, np.eye(5), atol=3e-6)
    scaled = block * 2.0 ** exponents[:, None]
    np.testing.assert_allclose(state.residual @ current, scaled, atol=2e-5)
    assert state.residual[1, 1] == state.residual[3, 3] == 0


def test_noise_does_not_grow():
    """Indefinite matrices, as rounding makes of rank-deficient Gram matrices."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        k = 40
        block = rng.standard_normal((k, 12)) @ rng.standard_normal((12, 300))
        gram = block @ block.T
        noise = rng.standard_normal((k, k)) * 3e-7 * np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
        state = CholeskyQr(k, 0)
        transform, last = state.one_pass(gram + noise + noise.T, np.zeros((k, 0)), 1)
        assert not last
        scaled = transform * np.sqrt(np.diag(gram))
        assert np.abs(scaled).max() < 1e6


def test_every_entry_of_the_factor_is_at_most_the_norm_of_its_row():
    """As of a Gram matrix; also where S is none, because `against` is not orthonormal."""
    rng = np.random.default_rng(3)
    for k in (3, 10, 40):
        noise = rng.standard_normal((k, k))
        gram = np.eye(k) + 0.7 * (noise + noise.T)
        np.fill_diagonal(gram, 1.0)
        state = CholeskyQr(k, 0)
        transform, last = state.one_pass(gram, np.zeros((k, 0)), 1)
        assert not last
        assert np.isfinite(transform).all()
        assert np.abs(np.tril(state.residual, -1)).max() <= 1.0  # D = I: the residual is L


# ------------------------------------------------------------------------------- until it is enough


def passes(block, *, single=True):
    """Rows made orthonormal by as many passes as it takes, the state, and how many they were."""
    work = np.float32 if single else np.float64
    rng = np.random.default_rng(0)
    rows, k = block.astype(work), len(block)
    state, replaced, last, number = CholeskyQr(k, 0, single=single), np.zeros(k, bool), False, 0
    while not last:
        number += 1
        wide = rows.astype(np.float64)
        transform, last = state.one_pass(wide @ wide.T, np.zeros((k, 0)), number)
        rows = (transform.astype(work) @ rows).astype(work)
        replaced |= state.given_up
        random = rng.standard_normal((state.given_up.sum(), rows.shape[1]))
        rows[state.given_up] = random / np.sqrt(rows.shape[1])
    return rows.astype(np.float64), replaced, number


def loss(q):
    return np.linalg.norm(q @ q.T - np.eye(len(q)), 2)


@pytest.mark.parametrize(
    ("k", "s"), [(10, 0.7), (20, 0.9), (20, 0.81), (30, 0.95), (30, 0.91), (60, 0.99), (60, 0.98)]
)
def test_errors_that_grow_from_row_to_row_stay_out_of_the_span(k, s):
    block = kahan(k, s) @ orthonormal(np.random.default_rng(k), k, 400)
    block = block.astype(np.float32).astype(np.float64)
    assert np.linalg.cond(block) < 1e6
    q, replaced, number = passes(block)
    assert loss(q) < 1e-5
    assert away(block, q).max() < 1e-5
    assert not replaced.any()
    assert number <= 4


@pytest.mark.parametrize("distance", [1e-7, 1e-9, 1e-11, 1e-13])
def test_a_weak_row_is_kept_where_its_pivot_drowns_in_rounding(distance):
    """In float64 a pivot of distance^2 is rounding, of either sign; the row is there."""
    rng = np.random.default_rng(4)
    for k in (2, 5, 20):
        directions = orthonormal(rng, 2 * k, 300)
        strong, weak = directions[:k], directions[k:]
        mixed = rng.standard_normal((k, k)) @ strong
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        block = np.vstack([strong, mixed + distance * weak])
        q, replaced, number = passes(block, single=False)
        assert not replaced.any()
        assert number <= 5
        assert loss(q) < 1e-12
        exact = np.linalg.qr(block.T)[0].T
        assert away(weak, exact).max() < 1e4 * 2.0**-53 / distance
        assert away(weak, q).max() < 1e4 * 2.0**-53 / distance


@pytest.mark.parametrize("single", [True, False])
def test_rows_of_no_distance_are_replaced_whatever_the_sign_of_their_pivots(single):
    rng = np.random.default_rng(5)
    for k in (2, 7, 30):
        strong = rng.standard_normal((k, 200))
        block = np.vstack([strong, strong * 2.0 ** rng.integers(-9, 9, (k, 1))])
        q, replaced, number = passes(block, single=single)
        np.testing.assert_array_equal(replaced, np.arange(2 * k) >= k)
        assert number <= 4
        assert loss(q) < (1e-5 if single else 1e-12)


# ------------------------------------------------------------------------- when one pass is enough


def correlated(k, columns):
    """Blocks from nearly orthonormal to nearly dependent: a common vector in every row."""
    rng = np.random.default_rng(k)
    rows, common = orthonormal(rng, k, columns), np.abs(rng.standard_normal(columns))
    for share in np.geomspace(0.02, 8, 40):
        block = rows + share * common / np.linalg.norm(common)
        yield block.astype(np.float32).astype(np.float64)


def worst_loss(block, transform):
    """What || I - Q Q^T || may be if every rounding goes the worst way, from below.

    Row i of Q is the sum of T_ij A_j in order of j, and T, the products and the sums are rounded by
    at most 2^-24 of themselves: each goes where it adds most to the loss along one vector.
    """
    q, along = transform @ block, np.full(len(block), len(block) ** -0.5)
    worst = 0.0
    for _ in range(4):
        direction, moved = along @ q, np.zeros(len(block))
        for i in range(len(block)):
            terms = transform[i, : i + 1, None] * block[: i + 1]
            sums = np.cumsum(terms, axis=0)[1:]
            moved[i] = ((np.abs(terms).sum(0) + np.abs(sums).sum(0)) @ np.abs(direction)).sum()
            moved[i] += np.abs(terms @ direction).sum()
        worst = max(worst, 2 * 2.0**-24 * (np.abs(along) @ moved))
        along = moved / np.linalg.norm(moved)
    return worst


@pytest.mark.parametrize(("k", "columns"), [(4, 64), (32, 256), (64, 512)])
def test_a_pass_is_the_last_only_where_no_rounding_can_break_the_promise(k, columns):
    once = []
    for block in correlated(k, columns):
        transform, last = CholeskyQr(k, 0).one_pass(block @ block.T, np.zeros((k, 0)), 1)
        once.append(last)
        if last:
            assert worst_loss(block, transform) < 1e-5
    assert once[0]  # and a block that is nearly orthonormal takes no second pass ...
    assert k == 4 or not once[-1]


@pytest.mark.parametrize(("k", "columns"), [(10, 256), (10, 16384), (50, 16384)])
def test_a_random_block_takes_one_pass(k, columns):
    block = np.random.default_rng(6).standard_normal((k, columns))
    _, last = CholeskyQr(k, 0).one_pass(block @ block.T, np.zeros((k, 0)), 1)
    assert last


def with_one_weak_direction(k, columns):
    """Blocks of which one singular value is less than one, in equal parts of every row."""
    rows = orthonormal(np.random.default_rng(k), k, columns)
    weak = (-1.0) ** np.arange(k) / np.sqrt(k)
    for squared in np.geomspace(1, 100, 60):
        yield rows - (1 - squared**-0.5) * np.outer(weak, weak @ rows)


@pytest.mark.parametrize("k", [16, 64])
def test_a_pass_is_the_last_only_where_no_error_of_its_products_can_break_the_promise(k):
    """In float64, where the products of a pass are no better than its rows: 32 roundings each."""
    once = []
    for block in with_one_weak_direction(k, 4 * k):
        gram = block @ block.T
        size = np.sqrt(np.diag(gram))
        weakest = np.linalg.eigh(gram / np.outer(size, size))[1][:, 0]
        error = 32 * 2.0**-53 * np.outer(size, size) * np.outer(np.sign(weakest), np.sign(weakest))
        state = CholeskyQr(k, 0, single=False)
        transform, last = state.one_pass(gram + error, np.zeros((k, 0)), 1)
        once.append(last)
        if last:
            assert loss(transform @ block) < 1e-12
    assert once[0]
    assert not once[-1]
