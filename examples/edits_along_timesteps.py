"""Edit a sample along its leading direction at several timesteps, and draw what comes of it.

    python examples/edits_along_timesteps.py --timesteps 900,700,500,300 --output edits.png

At every timestep the direction is the leading one of the local basis there. Beside each stands
how far the strongest edit takes the image, in root mean square of its pixels: early on the way an
edit decides what is made, later it changes details.
"""

import argparse

import pullback
from pullback import figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="digits", help="zoo name, diffusers folder or hub id")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timesteps", default="900,700,500,300,100")
    parser.add_argument("--strengths", default="-8,-4,0,4,8")
    parser.add_argument("--steps", type=int, default=50, help="over the whole schedule")
    parser.add_argument("--output", default="edits_along_timesteps.png")
    args = parser.parse_args()
    strengths = [float(one) for one in args.strengths.split(",")]

    model = pullback.load(args.model)
    sweeps = []
    for t in (int(one) for one in args.timesteps.split(",")):
        x = model.sample_latents(1, t, seed=args.seed)
        basis = pullback.local_basis(model, x, t, rank=1)
        sweep = basis.edit(strengths, steps=args.steps)
        still = pullback.denoise(model, x, t, steps=args.steps)
        change = (sweep.latents[0, 0] - still).square().flatten(1).mean(1).sqrt().max()
        print(f"t = {t:3}  change {float(change):.3f}")
        sweeps.append(sweep)
    images = [figures.pictured(model, sweep.latents) for sweep in sweeps]
    figures.save(figures.edit_timesteps(sweeps, images), args.output)


if __name__ == "__main__":
    main()
