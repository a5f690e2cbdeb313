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
        page.wait_for_timeout(500)
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
