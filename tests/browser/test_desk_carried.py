"""Which block carries the picture: the desk's button makes a sweep of what draws the picture, and its finds stand behind the faders."""

import itertools
import re

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

from strata.devtools.models import CHECKPOINT, LORAS

pytestmark = pytest.mark.browser

WARM, CONV = LORAS
IDS = itertools.count(10_000, 50)
RUN = 240_000  # ms; the machine may be busy
MADE = "A LoRA Sweep stands below: run it, and its bars come here."
THEME = "(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)"
WIRED = """(id) => {
  const node = app.graph.getNodeById(id)
  return Object.fromEntries(node.inputs.filter((slot) => slot.link != null).map((slot) => {
    const link = app.graph.getLink(slot.link)
    return [slot.name, [app.graph.getNodeById(link.origin_id).type, link.origin_slot]]
  }))
}"""


def graph(page, owner, vae=True, between=None):
    """Checkpoint, prompts, latent, KSampler and VAE Decode around the node that has the LoRA; between: a node behind its MODEL."""
    page.evaluate(
        """([owner, checkpoint, vae, between]) => {
          const make = (kind, at, values = {}) => {
            const made = LiteGraph.createNode(kind)
            made.pos = at
            app.graph.add(made)
            for (const [name, value] of Object.entries(values)) made.widgets.find((w) => w.name === name).value = value
            return made
          }
          const into = (from, slot, to, name) => from.connect(slot, to, to.inputs.findIndex((input) => input.name === name))
          const lora = app.graph.getNodeById(owner)
          const source = make('CheckpointLoaderSimple', [40, 620], { ckpt_name: checkpoint })
          const latent = make('EmptyLatentImage', [40, 800], { width: 64, height: 64 })
          const good = make('CLIPTextEncode', [1400, 120], { text: 'a fox' })
          const bad = make('CLIPTextEncode', [1400, 340], { text: 'a blur' })
          const sampler = make('KSampler', [1800, 120], {
            seed: 7, steps: 1, cfg: 1.5, sampler_name: 'heun', scheduler: 'normal', denoise: 0.9,
          })
          const decode = make('VAEDecode', [2200, 120])
          const preview = make('PreviewImage', [2200, 300])
          into(source, 0, lora, 'model')
          into(source, 1, lora, 'clip')
          let model = lora
          if (between) {
            model = make(between, [1400, 560])
            into(lora, 0, model, 'model')
          }
          into(model, 0, sampler, 'model')
          for (const [text, name] of [[good, 'positive'], [bad, 'negative']]) {
            into(lora, 1, text, 'clip')
            into(text, 0, sampler, name)
          }
          into(latent, 0, sampler, 'latent_image')
          into(sampler, 0, decode, 'samples')
          if (vae) into(source, 2, decode, 'vae')
          into(decode, 0, preview, 'images')
        }""",
        [owner, CHECKPOINT, vae, between],
    )
    d.remember(page)


def sweeps(page):
    return page.evaluate(
        "() => app.graph.nodes.filter((node) => node.type === 'StrataSweep').map((node) => String(node.id))"
    )


def values(page, node):
    return page.evaluate(
        "(id) => Object.fromEntries(app.graph.getNodeById(id).widgets.map((w) => [w.name, w.value]))", node
    )


def desk_with_graph(page, lora=WARM, **more):
    page.evaluate("(last) => { app.graph.last_node_id = last }", next(IDS))
    desk, loader = d.add_pair(page, lora)
    graph(page, loader, **more)
    return desk, loader


def button(page, desk):
    return d.element(page, desk).locator("[data-act=carries]")


def note(page, desk):
    return d.element(page, desk).locator(".strata-foot .strata-note")


def bars(page, desk):
    return page.evaluate(
        f"""(id) => Object.fromEntries([...{d.ELEMENT}(id).querySelectorAll('.strata-fader:not(.strata-master)')].map((slider) =>
          [slider.dataset.name, Number(slider.style.getPropertyValue('--picture'))]))""",
        desk,
    )


def test_one_click_makes_a_sweep_of_the_graph_and_one_undo_takes_it_back(page):
    desk, loader = desk_with_graph(page)
    d.choose(page, loader, "strength_model", 0.75)
    d.remember(page)
    before = page.evaluate("() => app.graph.nodes.length")
    button(page, desk).click()
    expect(note(page, desk)).to_have_text(MADE)
    (node,) = sweeps(page)
    found = values(page, node)
    assert {name: found[name] for name in ("lora_name", "x_axis", "x_values", "y_axis", "z_axis", "compare_with")} == {
        "lora_name": WARM, "x_axis": "without block", "x_values": "all", "y_axis": "none", "z_axis": "none",
        "compare_with": "no change",
    }  # fmt: skip
    asked = {"seed": 7, "steps": 1, "cfg": 1.5, "sampler_name": "heun", "scheduler": "normal", "denoise": 0.9}
    asked |= {"positive": "a fox", "negative": "a blur", "strength_model": 0.75, "strength_clip": 1}
    assert {name: found[name] for name in asked} == asked
    assert page.evaluate(WIRED, node) == {
        "model": ["CheckpointLoaderSimple", 0],
        "clip": ["CheckpointLoaderSimple", 1],
        "vae": ["CheckpointLoaderSimple", 2],
        "latent_image": ["EmptyLatentImage", 0],
    }
    # It stands on nothing.
    assert page.evaluate(
        """(id) => {
          const own = app.graph.getNodeById(id)
          return app.graph.nodes.filter((node) => node !== own && node.pos[0] < own.pos[0] + own.size[0] &&
            node.pos[0] + node.size[0] > own.pos[0] && node.pos[1] + node.size[1] > own.pos[1] - 30).map((node) => node.type)
        }""",
        node,
    ) == []  # fmt: skip
    d.rest(page, 700)
    d.undo(page)
    assert sweeps(page) == [] and page.evaluate("() => app.graph.nodes.length") == before
    # A second click takes what has changed into the same node.
    button(page, desk).click()
    d.rest(page, 700)
    (node,) = sweeps(page)
    d.choose(page, loader, "strength_model", 0.5)
    d.remember(page)
    button(page, desk).click()
    d.rest(page, 300)
    assert sweeps(page) == [node] and values(page, node)["strength_model"] == 0.5
    d.undo(page)
    assert sweeps(page) == [node] and values(page, node)["strength_model"] == 0.75


def test_what_is_not_found_and_what_is_left_out_is_said(page):
    desk, _ = desk_with_graph(page, vae=False, between="ModelSamplingDiscrete")
    lone = d.add(page, "StrataLoraBlockWeights", (40, 1100))
    expect(button(page, desk)).to_have_text("Which block?")
    button(page, desk).click()
    left_out = "Not in its pictures: ModelSamplingDiscrete"
    missing = "Not found, so not connected: vae. Connect it to the LoRA Sweep below, then run it: its bars come here."
    expect(note(page, desk)).to_have_text(f"{missing} {left_out}.")
    d.set_text(page, desk, "OUT*=0.5, default=1")
    button(page, desk).click()
    expect(note(page, desk)).to_have_text(f"{missing} {left_out}, the block weights of this desk.")
    expect(button(page, lone)).to_be_disabled()
    (node,) = sweeps(page)
    assert "vae" not in page.evaluate(WIRED, node)
    d.screenshot(page, f"carried-said-{d.renderer(page)}", desk)
    page.evaluate("() => app.graph.nodes.filter((n) => n.type === 'KSampler').forEach((n) => app.graph.remove(n))")
    button(page, desk).click()
    expect(note(page, desk)).to_contain_text("No sampler was found behind this LoRA: connect")
    told = note(page, desk).text_content()
    assert told.startswith("No sampler") and "seed" not in told and "steps" not in told
    assert set(page.evaluate(WIRED, node)) == {"model", "clip", "latent_image"}


def test_what_the_sweep_finds_stands_behind_the_faders(page, server):
    # What one renderer's sweep has told is known in the other one.
    lora = CONV if d.renderer(page) == "canvas" else WARM
    desk, loader = desk_with_graph(page, lora)
    root = d.element(page, desk)
    assert not any(bars(page, desk).values()) and not root.locator(".strata-legend-picture").is_visible()
    button(page, desk).click()
    d.rest(page, 300)
    page.evaluate("() => app.queuePrompt(0)")
    expect(root.locator(".strata-legend-picture")).to_have_text("picture", timeout=RUN)
    told = server.get_json(f"/strata/carried?name={lora}")
    most = max(told["blocks"].values())
    assert len(told["blocks"]) > 10 and most > 0
    expected = {name: round(told["blocks"].get(name, 0) / most, 4) for name in d.shown(page, desk)}
    assert bars(page, desk) == pytest.approx(expected, abs=1e-4)
    # What was promised has come.
    expect(note(page, desk)).not_to_contain_text("LoRA Sweep")
    first = max(told["blocks"], key=told["blocks"].get)
    d.fader(page, desk, first).hover()
    readout = root.locator(".strata-readout")
    expect(readout).to_have_text(re.compile(r"^picture 0\.\d+ \u00b7 (weights|share) [\d.]+ %$"))
    # Whole at 400 px; the number at 230 px too.
    for width in (230, 400):
        page.evaluate(
            "([id, width]) => { const n = app.graph.getNodeById(id); n.setSize([width, n.size[1]]); n.setDirtyCanvas(true, true) }",
            [desk, width],
        )
        d.rest(page, 500)
        d.fader(page, desk, first).hover()
        shown = page.evaluate(
            """(it) => {
              const range = document.createRange()
              range.setStart(it.firstChild, 0)
              range.setEnd(it.firstChild, it.textContent.indexOf(' \u00b7'))
              const [number, whole, box] = [range.getBoundingClientRect(), it.scrollWidth, it.getBoundingClientRect()]
              return { number: number.right <= box.right + 0.5, whole: whole <= it.clientWidth + 1 }
            }""",
            readout.element_handle(),
        )
        d.screenshot(page, f"carried-readout-{width}-{d.renderer(page)}", desk)
        assert shown["number"] and (width == 230 or shown["whole"]), (width, shown)
    place = d.fader(page, desk, first).locator(".strata-carried").bounding_box()
    energy = d.fader(page, desk, first).locator(".strata-energy").bounding_box()
    assert place["x"] >= energy["x"] + energy["width"] and place["width"] > 1
    for theme in ("dark", "light"):
        page.evaluate(THEME, theme)
        d.rest(page, 500)
        d.screenshot(page, f"carried-{theme}-{d.renderer(page)}", desk, loader)
    page.evaluate(THEME, "dark")
    # At another strength the old bars are marked, and are the same again at the one they were drawn at.
    d.choose(page, loader, "strength_model", 0.5)
    expect(root.locator(".strata-legend-picture")).to_have_text("picture, other strength")
    assert root.locator(".strata-rows.old-picture").count() == 1
    d.screenshot(page, f"carried-old-{d.renderer(page)}", desk, loader)
    d.choose(page, loader, "strength_model", 1)
    expect(root.locator(".strata-legend-picture")).to_have_text("picture")
    # Another file has none of them.
    d.choose(page, loader, "lora_name", "sd15.safetensors")
    expect(root.locator(".strata-legend-picture")).to_be_hidden()
    # Another page knows them, without any run.
    d.reload(page)
    again, _ = d.add_pair(page, lora)
    expect(d.element(page, again).locator(".strata-legend-picture")).to_have_text("picture")
    assert bars(page, again) == pytest.approx(expected, abs=1e-4)


def test_from_the_desk_of_a_row(page):
    page.evaluate("(last) => { app.graph.last_node_id = last }", next(IDS))
    stem, other = WARM.removesuffix(".safetensors"), CONV.removesuffix(".safetensors")
    stack = s.stack(page, f"<lora:{other}:0.5>\n<lora:{stem}:0.8:0.4>", at=(420, 120), width=440)
    graph(page, stack)
    s.menu(page, stack, 1, "Block weights as faders")
    under = s.element(page, stack).locator(".strata-desk")
    under.locator("[data-act=carries]").click()
    expect(under.locator(".strata-foot .strata-note")).to_have_text(f"{MADE} Not in its pictures: the other rows.")
    (node,) = sweeps(page)
    found = values(page, node)
    assert (found["lora_name"], found["strength_model"], found["strength_clip"]) == (WARM, 0.8, 0.4)
    assert page.evaluate(WIRED, node)["model"] == ["CheckpointLoaderSimple", 0]
