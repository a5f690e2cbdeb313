"""The noise of the connected sampler under a strength over time: drawn after a run, by ComfyUI's own numbers, and never guessed."""

import re

import comfy.model_sampling
import comfy.samplers
import desk_page as d
import pytest
from playwright.sync_api import expect

from strata.devtools.models import CHECKPOINT, LORAS

pytestmark = pytest.mark.browser
WEIGHTS = {"canvas": 0.55, "vue": 0.8}


def drawn(page, node):
    """(x, y) of the steps, each from 0 to 100."""
    line = d.element(page, node, "strata_curve").locator(".strata-curve-noise").get_attribute("d") or ""
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line)]


def wait_for_steps(page, node, count):
    page.wait_for_function(
        """([id, count]) => {
          const shown = app.graph.getNodeById(id).widgets.find((w) => w.name === 'strata_curve').element
          return (shown.querySelector('.strata-curve-noise').getAttribute('d') ?? '').split(/[ML]/).length - 1 === count
        }""",
        arg=[node, count],
        timeout=120_000,
    )


def test_it_follows_the_sampler(page):
    desk, loader = d.add_pair(page, LORAS[0])
    d.set_text(page, desk, f"OUT*={WEIGHTS[d.renderer(page)]}, default=1")
    d.make_runnable(page, loader, CHECKPOINT)
    node = d.add(page, "StrataLoraSchedule", (420, 620), strength="1@0s, 0@6s")
    sampler = d.add(page, "KSampler", (1350, 320), steps=6, scheduler="karras")
    page.evaluate(
        """([node, loader, sampler]) => {
          const [from, to, last] = [node, loader, sampler].map((id) => app.graph.getNodeById(id))
          from.connect(0, to, to.inputs.findIndex((input) => input.name === 'keyframes'))
          to.connect(0, last, 0)
        }""",
        [node, loader, sampler],
    )
    # What an earlier test's node of this id has told stays with the page.
    page.evaluate("() => { for (const id of Object.keys(app.nodeOutputs)) delete app.nodeOutputs[id] }")
    d.settle(page)
    wait_for_steps(page, node, 0)
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_steps(page, node, 7)
    sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def expected(scheduler, steps):
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps).tolist()
        return [(100 * at / steps, 100 - 100 * sigma / sigmas[0]) for at, sigma in enumerate(sigmas)]

    for found, wanted in zip(drawn(page, node), expected("karras", 6), strict=True):
        assert found == pytest.approx(wanted, abs=0.01)
    last = d.element(page, node, "strata_curve").locator(".strata-curve-ticks span").last
    expect(last).to_have_text("6")
    d.screenshot(page, f"noise-{d.renderer(page)}", node)
    # Words that need more than a line have it, in the narrowest node too.
    note = d.element(page, node, "strata_curve").locator(".strata-note")
    resize = "([id, width]) => { const n = app.graph.getNodeById(id); n.setSize([width, n.size[1]]); n.setDirtyCanvas(true, true) }"
    for width in (230, 400):
        page.evaluate(resize, [node, width])
        d.rest(page, 500)
        assert note.evaluate("(it) => it.scrollWidth <= it.clientWidth + 1 && it.scrollHeight <= it.clientHeight + 1")
        d.screenshot(page, f"noise-{width}-{d.renderer(page)}", node)
    d.choose(page, sampler, "scheduler", "normal")
    d.choose(page, sampler, "steps", 8)
    wait_for_steps(page, node, 9)
    expect(last).to_have_text("8")
    for found, wanted in zip(drawn(page, node), expected("normal", 8), strict=True):
        assert found == pytest.approx(wanted, abs=0.01)
    # Something between the two may count noise in another way.
    page.evaluate(
        """([loader, sampler]) => {
          const shift = LiteGraph.createNode('ModelSamplingSD3')
          app.graph.add(shift)
          app.graph.getNodeById(loader).connect(0, shift, 0)
          shift.connect(0, app.graph.getNodeById(sampler), 0)
        }""",
        [loader, sampler],
    )
    wait_for_steps(page, node, 0)


def test_it_follows_sigmas(page):
    """Through a guider, from a scheduler on the model without the LoRA, through a node that takes the second half of the steps."""
    desk, loader = d.add_pair(page, LORAS[0])
    d.set_text(page, desk, f"OUT*={WEIGHTS[d.renderer(page)]}, IN*=0.9, default=1")
    d.make_runnable(page, loader, CHECKPOINT)
    node = d.add(page, "StrataLoraSchedule", (420, 620), strength="1@0s, 0@6s")
    kinds = {
        "guider": ("BasicGuider", {}),
        "scheduler": ("BasicScheduler", {"scheduler": "karras", "steps": 6}),
        "split": ("SplitSigmas", {"step": 2}),
        "sampler": ("SamplerCustomAdvanced", {}),
    }
    ids = {
        name: d.add(page, kind, (1350, 100 + 170 * at), **values)
        for at, (name, (kind, values)) in enumerate(kinds.items())
    }
    page.evaluate(
        """([node, loader, ids]) => {
          const at = (id) => app.graph.getNodeById(id)
          const wire = (from, slot, to, name) => at(from).connect(slot, at(to), at(to).inputs.findIndex((it) => it.name === name))
          wire(node, 0, loader, 'keyframes')
          wire(loader, 0, ids.guider, 'model')
          const checkpoint = app.graph.getLink(at(loader).inputs.find((it) => it.name === 'model').link).origin_id
          wire(checkpoint, 0, ids.scheduler, 'model')
          wire(ids.scheduler, 0, ids.split, 'sigmas')
          wire(ids.split, 1, ids.sampler, 'sigmas')
          wire(ids.guider, 0, ids.sampler, 'guider')
          for (const id of Object.keys(app.nodeOutputs)) delete app.nodeOutputs[id]
        }""",
        [node, loader, ids],
    )
    d.settle(page)
    wait_for_steps(page, node, 0)
    page.evaluate("() => app.queuePrompt(0)")
    wait_for_steps(page, node, 5)
    sampling = comfy.model_sampling.ModelSamplingDiscrete()

    def places(sigmas):
        return [pytest.approx(100 - 100 * sigma / max(sigmas), abs=0.01) for sigma in sigmas]

    karras = comfy.samplers.calculate_sigmas(sampling, "karras", 6).tolist()
    assert [y for _, y in drawn(page, node)] == places(karras[2:])
    # The axis counts the steps that the sampler does.
    expect(d.element(page, node, "strata_curve").locator(".strata-curve-ticks span").last).to_have_text("6")
    d.choose(page, ids["split"], "step", 4)
    wait_for_steps(page, node, 3)
    assert [y for _, y in drawn(page, node)] == places(karras[4:])
    d.SCREENS.mkdir(parents=True, exist_ok=True)
    curve = d.element(page, node, "strata_curve")
    curve.screenshot(path=d.SCREENS / f"noise-sigmas-{d.renderer(page)}.png")
    # A node of one input, one output and no setting is no reroute for that: this one turns them round.
    flip = d.add(page, "FlipSigmas", (1350, 780))
    page.evaluate(
        """([split, flip, sampler]) => {
          const [from, between, to] = [split, flip, sampler].map((id) => app.graph.getNodeById(id))
          from.connect(1, between, 0)
          between.connect(0, to, to.inputs.findIndex((it) => it.name === 'sigmas'))
        }""",
        [ids["split"], flip, ids["sampler"]],
    )
    d.rest(page, 1500)
    # It makes no sigma 0 its first one.
    assert [y for _, y in drawn(page, node)] == places([0.0001, *karras[4:-1][::-1]])
    page.evaluate(
        """([split, flip, sampler]) => {
          const [from, between, to] = [split, flip, sampler].map((id) => app.graph.getNodeById(id))
          from.connect(1, to, to.inputs.findIndex((it) => it.name === 'sigmas'))
          app.graph.remove(between)
        }""",
        [ids["split"], flip, ids["sampler"]],
    )
    wait_for_steps(page, node, 3)
    # The scheduler counts by a model that is not the sampler's: what that makes is known in the run only.
    page.evaluate(
        """(scheduler) => {
          const from = app.graph.getNodeById(scheduler)
          const between = LiteGraph.createNode('ModelSamplingSD3')
          app.graph.add(between)
          const model = app.graph.getLink(from.inputs.find((it) => it.name === 'model').link)
          app.graph.getNodeById(model.origin_id).connect(0, between, 0)
          between.connect(0, from, from.inputs.findIndex((it) => it.name === 'model'))
        }""",
        ids["scheduler"],
    )
    wait_for_steps(page, node, 0)
    # Numbers alone are the same for every model.
    karras = d.add(page, "KarrasScheduler", (1350, 800), steps=3, sigma_max=8, sigma_min=0.5)
    page.evaluate(
        """([karras, split]) => {
          const [from, to] = [karras, split].map((id) => app.graph.getNodeById(id))
          from.connect(0, to, to.inputs.findIndex((it) => it.name === 'sigmas'))
        }""",
        [karras, ids["split"]],
    )
    d.choose(page, ids["split"], "step", 1)
    wait_for_steps(page, node, 3)
    sigmas = [round(100 - 100 * sigma / ((8 ** (1 / 7) + 0.5 ** (1 / 7)) / 2) ** 7, 2) for sigma in (0.5, 0)]
    assert [y for _, y in drawn(page, node)][1:] == [pytest.approx(y, abs=0.02) for y in sigmas]
