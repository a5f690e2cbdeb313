"""How the desk behaves as a guest of the page: collapsed, far away, on fine screens, arriving late, and gone without a trace."""

import desk_page as d
import pytest

from strata.devtools.browser import EMPTY, open_editor, use_renderer
from strata.devtools.models import CHECKPOINT

pytestmark = pytest.mark.browser
SD15 = {"lora": "sd15.safetensors"}
FLUX = {"lora": "flux.safetensors"}

# Counts what this pack's scripts leave on whatever outlives a node: listeners on anything but its own elements, observers, clocks.
LEDGER = """() => {
  const ours = () => new Error().stack.includes('strata')
  const shared = (target) => !(target instanceof Element) || target instanceof HTMLCanvasElement || target === document.body
  const kept = globalThis.ledger = { listeners: new Map(), observers: new Set(), clocks: new Set(), seen: new Set() }
  const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype
  const key = (type, options) => `${type} ${Boolean(options?.capture ?? options)}`
  EventTarget.prototype.addEventListener = function (type, run, options) {
    if (run && ours() && shared(this ?? window)) {
      kept.seen.add('listener')
      const at = key(type, options)
      const by = kept.listeners.get(this) ?? new Map()
      kept.listeners.set(this, by.set(at, (by.get(at) ?? new Set()).add(run)))
      if (options?.signal) add.call(options.signal, 'abort', () => by.get(at).delete(run))
    }
    return add.call(this, type, run, options)
  }
  EventTarget.prototype.removeEventListener = function (type, run, options) {
    kept.listeners.get(this)?.get(key(type, options))?.delete(run)
    return remove.call(this, type, run, options)
  }
  for (const name of ['ResizeObserver', 'MutationObserver', 'IntersectionObserver']) {
    globalThis[name] = class extends globalThis[name] {
      observe(...values) {
        if (ours()) kept.observers.add(this), kept.seen.add('observer')
        return super.observe(...values)
      }
      disconnect() {
        kept.observers.delete(this)
        return super.disconnect()
      }
    }
  }
  const { setInterval: start, clearInterval: stop } = globalThis
  globalThis.setInterval = (...values) => {
    const clock = start(...values)
    if (ours()) kept.clocks.add(clock), kept.seen.add('clock')
    return clock
  }
  globalThis.clearInterval = (clock) => { kept.clocks.delete(clock); stop(clock) }
}"""
COUNTS = """() => ({
  listeners: [...ledger.listeners.values()].flatMap((by) => [...by.values()]).reduce((sum, runs) => sum + runs.size, 0),
  observers: ledger.observers.size, clocks: ledger.clocks.size, elements: document.querySelectorAll('.strata').length
})"""
NOTHING = {"listeners": 0, "observers": 0, "clocks": 0, "elements": 0}


def size(page, node):
    return page.evaluate("(id) => [...app.graph.getNodeById(id).size]", node)


def collapse(page, node):
    page.evaluate("(id) => app.graph.getNodeById(id).collapse()", node)
    page.wait_for_timeout(400)


def zoom(page, scale):
    """By a script, of which no event tells: the desk's clock looks once a second."""
    page.evaluate("(scale) => { app.canvas.ds.scale = scale; app.canvas.setDirty(true, true) }", scale)
    page.wait_for_timeout(1300)


def inside(page, desk):
    """Whether every fader lies within the desk, and the desk within its node."""
    box = d.element(page, desk).bounding_box()
    for fader in d.element(page, desk).locator(".strata-fader").all():
        place = fader.bounding_box()
        assert place["x"] >= box["x"] - 1
        assert place["x"] + place["width"] <= box["x"] + box["width"] + 1
        assert place["y"] + place["height"] <= box["y"] + box["height"] + 1
    x, y, width, height = page.evaluate(
        "(id) => { const n = app.graph.getNodeById(id); return [...app.canvasPosToClientPos(n.pos), ...n.size] }", desk
    )
    assert box["x"] >= x and box["x"] + box["width"] <= x + width
    assert box["y"] >= y and box["y"] + box["height"] <= y + height + 1


def test_collapse_and_expand(page, server):
    desk, _ = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.5)
    before, was = d.agree(page, server, desk, **SD15), size(page, desk)
    collapse(page, desk)
    assert not d.element(page, desk).is_visible()
    collapse(page, desk)
    assert d.element(page, desk).is_visible()
    assert size(page, desk) == was
    assert d.agree(page, server, desk, **SD15) == before
    inside(page, desk)


def test_a_lora_that_came_while_collapsed(page, server):
    desk, loader = d.add_pair(page, **SD15)
    collapse(page, desk)
    d.choose(page, loader, "lora_name", "flux.safetensors")
    d.wait_for_lora(page, desk, "flux.safetensors")
    collapse(page, desk)
    assert len(d.agree(page, server, desk, **FLUX)) == 60
    inside(page, desk)


def test_far_away_it_draws_less(page):
    desk, _ = d.add_pair(page, **SD15)
    root = d.element(page, desk)
    small = ".strata-number, .strata-button, .strata-mute, .strata-solo, .strata-foot"
    assert all(part.is_visible() for part in root.locator(".strata-fader .strata-number").all()[:1])
    zoom(page, 0.3)
    assert not any(part.is_visible() for part in root.locator(small).all())
    # Nodes in the page keep their faders; over nodes on the canvas ComfyUI hides every element from afar.
    assert root.locator(".strata-cap").first.is_visible() == (d.renderer(page) == "vue")
    zoom(page, 1)
    assert root.locator(".strata-cap").first.is_visible()
    assert root.locator(".strata-foot").is_visible()


def test_nothing_moves_when_the_server_answers(page):
    """The answer is held back until the nodes stand there."""
    page.evaluate("() => app.refreshComboInNodes()")  # forgets what the server said before
    with d.held_back(page) as waiting:
        loader = d.add(page, "StrataLoraLoader", (950, 120), **{"lora_name": "flux.safetensors"})
        desk = d.add(page)
        d.connect(page, desk, loader)
        page.wait_for_timeout(700)
        assert waiting
        before = size(page, desk), size(page, loader), d.element(page, desk).bounding_box()
    d.wait_for_lora(page, desk, "flux.safetensors")
    page.wait_for_timeout(400)
    assert len(d.shown(page, desk)) == 60
    assert (size(page, desk), size(page, loader), d.element(page, desk).bounding_box()) == before
    inside(page, desk)


def test_a_saved_size_is_kept(page):
    """Down to the smallest that the desk allows."""
    desk, _ = d.add_pair(page, **SD15)
    page.evaluate("(id) => { const n = app.graph.getNodeById(id); n.setSize([440, n.computeSize()[1]]) }", desk)
    page.wait_for_timeout(500)
    before = size(page, desk)
    saved = page.evaluate("() => JSON.stringify(app.rootGraph.serialize())")
    page.evaluate(
        "async (saved) => app.loadGraphData(JSON.parse(saved), true, false, app.extensionManager.workflow.activeWorkflow)",
        saved,
    )
    d.wait_for_lora(page, desk, **SD15)
    page.wait_for_timeout(400)
    assert size(page, desk) == before
    inside(page, desk)


def test_an_answer_that_comes_during_an_edit_changes_no_weight(page, server):
    desk, loader = d.add_pair(page, **SD15)
    with d.held_back(page) as waiting:
        page.evaluate("(id) => app.graph.getNodeById(id).onExecuted({})", loader)  # the file is asked about anew
        page.wait_for_timeout(500)
        assert waiting
        first, last = (d.fader(page, desk, name).bounding_box() for name in ("IN04", "IN08"))
        y = first["y"] + first["height"] / 2
        page.mouse.move(first["x"] + 3, y)
        page.mouse.down()
        page.mouse.move(first["x"] + 20, y, steps=3)
        page.wait_for_timeout(100)
        painted = d.shown(page, desk)["IN04"]
        assert painted != 1
    page.wait_for_timeout(500)
    page.mouse.move(last["x"] + 3, y, steps=5)
    page.mouse.up()
    values = d.agree(page, server, desk, **SD15)
    assert {values[f"IN{n:02d}"] for n in range(4, 9)} == {painted}


def test_the_wheel_is_the_canvas_s_but_with_alt(page, server):
    desk, loader = d.add_pair(page, **SD15)
    scale = "() => app.canvas.ds.scale"
    box = d.fader(page, desk, "IN04").bounding_box()
    page.mouse.move(box["x"] + 4, box["y"] + 20)
    page.keyboard.down("Alt")
    page.mouse.move(box["x"] + 5, box["y"] + 22)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(300)
    page.keyboard.up("Alt")
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.95
    assert page.evaluate(scale) == 1
    page.mouse.move(5, 500)
    for node in (desk, loader):
        before = page.evaluate(scale)
        box = d.element(page, node).bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 12)
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(300)
        assert page.evaluate(scale) < before
    assert d.agree(page, server, desk, **SD15)["IN04"] == 0.95


def test_copy_and_paste_by_keyboard(page, server):
    desk, loader = d.add_pair(page, **SD15)
    d.drag(page, desk, "IN04", 0.5)
    before = d.agree(page, server, desk, **SD15)
    page.evaluate(
        """(ids) => {
          document.activeElement?.blur()
          app.canvas.selectItems(ids.map((id) => app.graph.getNodeById(id)))
        }""",
        [desk, loader],
    )
    page.mouse.move(700, 850)
    page.keyboard.press("Control+c")
    page.keyboard.press("Control+v")
    page.wait_for_timeout(700)
    copy = page.evaluate(
        "(id) => String(app.graph.nodes.find((n) => n.type === 'StrataLoraBlockWeights' && String(n.id) !== id).id)",
        desk,
    )
    d.wait_for_lora(page, copy, **SD15)
    assert d.agree(page, server, copy, **SD15) == before
    assert page.evaluate("() => app.graph.nodes.length") == 4


def test_the_renderer_is_switched_there_and_back(page, server):
    desk, loader = d.add_pair(page, **SD15)
    first = d.renderer(page)
    try:
        for name in ("vue", "canvas", first):
            use_renderer(page, name)
            page.wait_for_timeout(900)
            d.fader(page, desk, "IN04").focus()
            page.keyboard.press("ArrowDown")
            d.agree(page, server, desk, **SD15)
            inside(page, desk)
            assert d.element(page, loader).locator(".strata-verdict").is_visible()
        assert d.shown(page, desk)["IN04"] == 0.85
        d.drag(page, desk, "OUT03", 0.3)
        assert d.agree(page, server, desk, **SD15)["OUT03"] == pytest.approx(0.3, abs=0.051)
        assert page.locator(".strata-desk").count() == 1
    finally:
        use_renderer(page, first)


@pytest.fixture(params=["canvas", "vue"])
def other_page(request, browser, server):
    """A page of its own, by what a test wants of it."""
    contexts = []

    def opened(script=None, **options):
        context = browser.new_context(viewport={"width": 1500, "height": 1000}, **options)
        contexts.append(context)
        page = context.new_page()
        if script:
            page.add_init_script(f"({script})()")
        open_editor(page, server)
        use_renderer(page, request.param)
        page.evaluate(EMPTY)
        return page

    yield opened
    for context in contexts:
        context.close()


def test_on_a_fine_screen(other_page, server):
    """Two device pixels to a unit: nothing is a bitmap of one, and hands find the same places."""
    page = other_page(device_scale_factor=2)
    desk, _ = d.add_pair(page, **FLUX)
    root = d.element(page, desk)
    assert page.evaluate("() => [app.canvas.canvas.width, innerWidth * 2]") == [3000, 3000]
    assert root.locator("canvas, img").count() == 0
    d.drag(page, desk, "S05", 0.5)
    assert d.agree(page, server, desk, **FLUX)["S05"] == pytest.approx(0.5, abs=0.051)
    cap = page.evaluate(
        "(e) => getComputedStyle(e).boxShadow", d.fader(page, desk, "S05").locator(".strata-cap").element_handle()
    )
    assert "0.5px" in cap  # a hairline: half a unit is one pixel here
    d.screenshot(page, f"fine-{d.renderer(page)}", desk)


def test_nothing_is_left_of_removed_nodes(other_page):
    page = other_page(LEDGER)
    page.wait_for_timeout(500)
    nothing = page.evaluate(COUNTS)
    assert nothing == {**NOTHING, "listeners": nothing["listeners"]}  # what the page as a whole listens to stays
    for way in ("removed", "undone", "another workflow"):
        desk, loader = d.add_pair(page, **SD15)
        d.drag(page, desk, "IN04", 0.5)
        d.element(page, desk).locator("[data-act=presets]").click()
        d.element(page, loader).locator("[data-act=details]").click()
        page.wait_for_timeout(300)
        alive = page.evaluate(COUNTS)
        assert (alive["observers"], alive["clocks"], alive["elements"]) == (2, 1, 3)
        assert alive["listeners"] > nothing["listeners"] + 5
        if way == "undone":
            d.undo(page)
        if way == "another workflow":
            page.evaluate(EMPTY)
        else:
            page.evaluate("() => { for (const node of [...app.graph.nodes]) app.graph.remove(node) }")
        page.wait_for_timeout(700)
        assert page.evaluate(COUNTS) == nothing, way
    assert page.evaluate("() => [...ledger.seen].sort()") == ["clock", "listener", "observer"]


def test_sixty_faders_redraw_within_a_frame(page):
    """A stroke across all of them: from the desk's own work in a frame to the end of style and layout."""
    desk, _ = d.add_pair(page, **FLUX)
    spent = page.evaluate(
        f"""async (id) => {{
          const root = {d.ELEMENT}(id), slider = root.querySelector('[data-name=S05]'), surface = slider.closest('.strata-rows')
          const sliders = [...root.querySelectorAll('.strata-fader')], box = slider.getBoundingClientRect()
          const middle = box.y + box.height / 2
          const fire = (type, x, y) => slider.dispatchEvent(
            new PointerEvent(type, {{ bubbles: true, pointerId: 1, button: 0, clientX: x, clientY: y }}))
          fire('pointerdown', box.x + 2, middle)
          for (let at = 0; at < 60; at++) {{
            await new Promise((done) => {{
              requestAnimationFrame(() => performance.mark('began'))
              fire('pointermove', at % 2 ? sliders[20].getBoundingClientRect().x : innerWidth, middle + (at % 30))
              requestAnimationFrame(() => {{
                surface.getBoundingClientRect()
                performance.measure('strata', 'began')
                done()
              }})
            }})
          }}
          fire('pointerup', box.x, middle)
          return performance.getEntriesByName('strata').map((entry) => entry.duration).sort((a, b) => a - b)
        }}""",
        desk,
    )
    values = d.shown(page, desk)
    assert sum(value != 1 for value in values.values()) > 20
    print(
        f"{d.renderer(page)}: 60 faders, median {spent[30]:.1f} ms, 95 % below {spent[57]:.1f} ms, worst {spent[-1]:.1f} ms"
    )
    assert spent[30] < 16


def slow(color):
    """A prompt that takes the server a second or two."""
    size = {"width": 4096, "height": 4096, "batch_size": 1, "color": color}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    return {"1": {"class_type": "EmptyImage", "inputs": size}, "2": preview}


def test_a_failure_shows_in_the_workflow_that_ran(other_page, server):
    """Whatever is on the screen when it comes: nodes of another workflow have the same ids."""
    page = other_page()
    loader = d.add(page, "StrataLoraLoader", (600, 120), lora_name="flux.safetensors")
    d.make_runnable(page, loader, CHECKPOINT)
    page.wait_for_timeout(700)
    wrong = f"(id) => {d.ELEMENT}(id).querySelector('.strata-verdict')?.classList.contains('wrong')"
    for color in (1, 2):
        server.queue(slow(color))
    page.evaluate(
        """() => {
          window.failed = new Promise((done) => comfyAPI.api.api.addEventListener('execution_error', () => done(app.graph.id)))
          return app.queuePrompt(0)
        }"""
    )
    first = page.evaluate("() => app.graph.id")
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("(id) => app.graph.id !== id", arg=first)
    page.evaluate(EMPTY)
    other = d.add(page, "StrataLoraLoader", (600, 120), lora_name="flux.safetensors")
    assert other == loader
    assert page.evaluate("() => window.failed") != first, "the other workflow was on the screen"
    page.wait_for_timeout(1500)
    assert not page.evaluate(wrong, other)
    page.keyboard.press("Escape")
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    page.wait_for_function("(id) => app.graph.id === id", arg=first)
    page.wait_for_function(wrong, arg=loader)
