"""What a run leaves in the browser: bars relative to the model's weights, and a verdict that outlives undo, another page and a cached
run. The demo's LoRAs were made to change every layer by ``LORA_SIZE`` of its weight, so each bar must say that."""

import re

import desk_page as d
import pytest

from strata.devtools.models import CHECKPOINT, LORA_SIZE, LORAS

pytestmark = pytest.mark.browser
WEIGHTS = {"canvas": 0.5, "vue": 0.75}  # ComfyUI would not run a prompt again that it has run


@pytest.fixture
def ran(page):
    """(desk, loader) of a workflow that ran; nothing is sampled."""
    desk, loader = d.add_pair(page, LORAS[0])
    d.set_text(page, desk, f"OUT*={WEIGHTS[d.renderer(page)]}, default=1")
    d.make_runnable(page, loader, CHECKPOINT)
    run(page)
    wait_for_verdict(page, loader)
    return desk, loader


def run(page):
    page.evaluate("() => app.queuePrompt(0)")


def wait_for_verdict(page, loader):
    """Until the report is of this renderer's run: what is shown first may be of an earlier test, which ComfyUI keeps by node id."""
    page.wait_for_function(
        f"([id, rule]) => {d.ELEMENT}(id)?.querySelector('.strata-verdict')?.title.includes(rule)",
        arg=[loader, f"OUT*={WEIGHTS[d.renderer(page)]}"],
        timeout=120_000,
    )


def wait_for_bars(page, desk, word):
    page.wait_for_function(
        f"([id, word]) => {d.ELEMENT}(id)?.querySelector('.strata-legend')?.textContent === word",
        arg=[desk, word],
        timeout=d.READY,
    )


def bars(page, desk):
    """fader -> height of its bar, 0 to 1, of those that the LoRA changes."""
    return page.evaluate(
        f"""(id) => Object.fromEntries([...{d.ELEMENT}(id).querySelectorAll('.strata-fader:not(.strata-master):not(.absent)')].map(
          (slider) => [slider.dataset.name, slider.querySelector('.strata-energy').offsetHeight / slider.firstChild.offsetHeight]))""",
        desk,
    )


def verdict(page, loader):
    return d.element(page, loader).locator(".strata-verdict")


def test_bars_are_shares_until_a_model_is_known(page):
    """The files of this server's other LoRAs have met no model."""
    desk, _ = d.add_pair(page, "sd15.safetensors")
    wait_for_bars(page, desk, "share")
    heights = bars(page, desk)
    assert max(heights.values()) == pytest.approx(1, abs=0.02)
    assert min(heights.values()) < 0.2
    d.fader(page, desk, "OUT05").hover()
    assert "% of the LoRA" in d.element(page, desk).locator(".strata-readout").text_content()


def test_a_run_makes_them_relative_to_the_weights(page, ran):
    desk, loader = ran
    wait_for_bars(page, desk, "change")
    heights = bars(page, desk)
    assert len(heights) > 12
    assert min(heights.values()) > 0.9  # of a maximum to which sampling the weights adds a little
    readout = d.element(page, desk).locator(".strata-readout")
    for name in ("OUT05", "TE:clip_l", "IN*"):
        d.fader(page, desk, name).hover()
        told = readout.text_content()
        found = re.search(r"(?:changes these weights by|^picture .* weights) ([\d.]+) %$", told)
        assert found, told
        assert float(found[1]) == pytest.approx(100 * LORA_SIZE, rel=0.06)
    page.mouse.move(300, 900)
    d.screenshot(page, f"bars-relative-{d.renderer(page)}", desk, loader)


def test_the_verdict_outlives_undo(page, ran):
    desk, loader = ran
    before = verdict(page, loader).text_content()
    d.number_nodes(page, desk)
    d.drag(page, desk, "IN04", 0.5)
    d.undo(page)
    assert "OUT*" in d.text(page, desk)
    assert verdict(page, loader).text_content() == before


def test_the_verdict_is_of_the_chosen_lora_only(page, ran):
    _, loader = ran
    before = verdict(page, loader).text_content()
    d.choose(page, loader, "lora_name", LORAS[1])
    d.rest(page, 600)
    assert "applied" not in verdict(page, loader).text_content()
    d.choose(page, loader, "lora_name", LORAS[0])
    d.rest(page, 600)
    assert verdict(page, loader).text_content() == before


def test_what_comes_while_the_model_samples_is_whole_on_the_loader(page, ran):
    """By ComfyUI's own event for a text about a node, which a layer that did not run sends."""
    _, loader = ran
    before = verdict(page, loader).text_content()
    text = (
        f"{LORAS[0]}: 2 of 40 layers with this LoRA did not run in this sampling, so it had no effect there: {'x' * 60}"
    )
    page.evaluate(
        "([id, text]) => comfyAPI.api.api.dispatchCustomEvent('progress_text', { nodeId: id, text })", [loader, text]
    )
    d.rest(page, 400)
    line = verdict(page, loader)
    assert line.text_content() == text.removeprefix(f"{LORAS[0]}: ")
    assert line.evaluate("(e) => e.classList.contains('wrong') && e.scrollHeight <= e.clientHeight + 1")
    assert text in line.get_attribute("title")
    d.screenshot(page, f"notice-{d.renderer(page)}", loader)
    d.choose(page, loader, "lora_name", LORAS[1])
    d.rest(page, 600)
    assert "did not run" not in line.text_content()
    d.choose(page, loader, "lora_name", LORAS[0])
    page.evaluate("() => comfyAPI.api.api.dispatchCustomEvent('execution_start', { prompt_id: 'next', timestamp: 0 })")
    d.rest(page, 600)
    assert line.text_content() == before


def test_a_new_page_knows_the_model_at_once_and_the_verdict_after_a_cached_run(page, server, ran):
    desk, loader = ran
    told = verdict(page, loader).text_content()
    report = verdict(page, loader).get_attribute("title")
    saved = page.evaluate("() => JSON.stringify(app.rootGraph.serialize())")
    d.reload(page)
    page.evaluate(
        "async (saved) => app.loadGraphData(JSON.parse(saved), true, false, app.extensionManager.workflow.activeWorkflow)",
        saved,
    )
    d.wait_for_lora(page, desk, LORAS[0])
    wait_for_bars(page, desk, "change")
    assert verdict(page, loader).text_content().endswith("fits SD1.5")
    run(page)
    wait_for_verdict(page, loader)
    assert verdict(page, loader).text_content() == told
    assert verdict(page, loader).get_attribute("title") == report
    history = server.get_json("/history?max_items=1")
    (entry,) = history.values()
    cached = next(data["nodes"] for event, data in entry["status"]["messages"] if event == "execution_cached")
    assert loader in cached
