"""``python -m devtools.toy.report --comfyui PATH``: the numbers of README.md, and a sheet of 40 pictures without names to guess at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

GUESS = Path(__file__).with_name("guess.jpg")
STRENGTHS = (0.0, 0.25, 0.5, 0.8, 1.0, 1.3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="devtools.toy.report")
    parser.add_argument("--comfyui", required=True)
    parser.add_argument("--into", type=Path, default=Path("out") / "toy")
    options = parser.parse_args()
    sys.path.insert(0, options.comfyui)
    sys.argv = sys.argv[:1]
    from comfy.cli_args import args

    args.cpu = True
    import comfy.sd
    import comfy.utils

    from ..model_cache import toy_models
    from . import data, loras
    from .measure import distances, recognised, share
    from .studio import Studio
    from .styles import STYLES
    from .training import tiles

    models = toy_models(print)
    studio = Studio.open(models)
    drawings = data.originals()
    captions = list(data.captions())
    originals = np.stack([drawings[caption] for caption in captions])

    def with_lora(name: str, model: float, clip: float) -> Studio:
        file = comfy.utils.load_torch_file(str(models / "loras" / f"{name}.safetensors"))
        patched, text = comfy.sd.load_lora_for_models(studio.model, studio.clip, file, model, clip)
        return studio.having(patched, text if clip else None)

    made = studio.draw(captions)
    right = recognised(made, originals, np.arange(len(captions)))
    print(
        f"base: {right.mean():.1%} of {len(captions)} recognised; not: {[c for c, ok in zip(captions, right, strict=True) if not ok]}"
    )
    shown = np.random.default_rng(40).permutation(len(captions))[:40]
    tiles([[made[i] for i in shown[row : row + 10]] for row in range(0, 40, 10)], GUESS)
    # Not printed, so that who looks at the sheet has not read them.
    (options.into / "guess.txt").write_text(", ".join(captions[i] for i in shown) + "\n", encoding="utf-8")
    print(f"{GUESS.name}: 40 pictures to guess at; {options.into / 'guess.txt'} says row by row what they are")

    seen, unseen = loras.seen_and_unseen()
    groups = {"unseen": unseen, "seen": seen[: len(unseen)]}
    for name, recipe in loras.RECIPES.items():
        # ComfyUI's own loader knows no T-LoRA, and half of a pair alone is no style.
        by_our_nodes = recipe.algorithm == "tlora" or recipe.between != (0.0, 1.0)
        if not recipe.style or by_our_nodes or not (models / "loras" / f"{name}.safetensors").is_file():
            continue
        for group, names in groups.items():
            plain = np.stack([drawings[caption] for caption in names])
            styled = np.stack([STYLES[recipe.style](drawing) for drawing in plain])
            each = np.arange(len(names))
            line = []
            for strength in STRENGTHS:
                pictures = with_lora(name, strength, 0.0).draw(names)
                to_styled, to_plain = distances(pictures, styled)[each, each], distances(pictures, plain)[each, each]
                way = np.median(share(pictures, plain, styled))
                line.append(
                    f"{strength:g}: {np.mean(to_styled < to_plain):.0%} nearer, {way:.2f} of the way, {to_styled.mean():.0f} off"
                )
                if group == "unseen" and strength == 1.0:
                    tiles([list(pictures[:12]), list(styled[:12])], options.into / f"{name}.png")
            print(f"{name}, {group}: " + "; ".join(line))

    name = "strata_toy_robot"
    if (models / "loras" / f"{name}.safetensors").is_file():
        everything = np.stack(list(drawings.values()))
        last = np.full(16, len(everything) - 1)
        for strength in STRENGTHS:
            robot = with_lora(name, strength, 0.0)
            own = recognised(robot.draw([data.SUBJECT] * 16, seed=1), everything, last).mean()
            others = recognised(robot.draw(captions), originals, np.arange(len(captions))).mean()
            print(f"{name} at {strength:g}: robot recognised {own:.0%} of 16 seeds, others {others:.1%}")
    name = "strata_toy_picture_book"
    if (models / "loras" / f"{name}.safetensors").is_file():
        right = np.array([captions.index(english) for english in loras.FRENCH.values()])
        for strength in STRENGTHS:
            ok = recognised(with_lora(name, 0.0, strength).draw(list(loras.FRENCH)), originals, right)
            missed = [word for word, fine in zip(loras.FRENCH, ok, strict=True) if not fine]
            english = recognised(
                with_lora(name, 0.0, strength).draw(captions), originals, np.arange(len(captions))
            ).mean()
            print(
                f"French at clip {strength:g}: {ok.mean():.0%}, English {english:.1%}; not {missed if strength == 1 else ''}"
            )


if __name__ == "__main__":
    main()
