"""Follow samples down the schedule, and print how far their local bases turn on the way.

    python examples/bases_along_timesteps.py --samples 4 --rank 6 --timesteps 900,880,860,840

At every timestep the bases start from those of the timestep before. Between two successive bases
stand the principal angles between the spaces they span: near 0 where the leading space hardly
turns, near 90 degrees where a direction has been replaced by another one.
"""

import argparse

import torch

import pullback


def principal_angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Principal angles [B, k] in degrees, ascending, between spaces with bases [B, k, *x_shape].

    As arcsines of the singular values of (I - A^T A) B^T: arccosines lose the small angles.
    """
    a, b = (torch.linalg.qr(v.flatten(2).double().mT).Q for v in (a, b))
    rest = b - a @ (a.mT @ b)
    return torch.linalg.svdvals(rest).clamp(max=1.0).asin().rad2deg().flip(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits", help="zoo name, diffusers folder or hub id")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rank", type=int, default=6)
    parser.add_argument(
        "--timesteps", default="900,800,700,600,500,400,300,200,100", help="descending"
    )
    parser.add_argument("--quality", default="standard", choices=list(pullback.krylov.QUALITIES))
    args = parser.parse_args()
    timesteps = sorted({int(t) for t in args.timesteps.split(",")}, reverse=True)

    model = pullback.load(args.model)
    before = None
    print("median over samples of the principal angles to the basis above, in degrees")
    for t in timesteps:
        x = model.sample_latents(args.samples, t, seed=0)
        init = None if before is None else before.v
        basis = pullback.local_basis(model, x, t, args.rank, quality=args.quality, init=init)
        turned = ""
        if before is not None:
            angles = principal_angles(before.v, basis.v).median(dim=0).values
            turned = " ".join(f"{angle:5.1f}" for angle in angles)
        products = basis.products.double().mean()
        print(
            f"t = {t:3}  {int(basis.converged.sum())}/{len(basis)} converged  "
            f"{products:5.0f} products  {turned}"
        )
        before = basis


if __name__ == "__main__":
    main()
