"""One action of a hand is one step of undo: on a slow page, right after another one, and in an editor that adds to its last step late."""

from contextlib import contextmanager

import desk_page as d
import pytest
import stack_page as s

pytestmark = pytest.mark.browser

SLOW = 6  # times
ROWS = "<lora:sd15:1>\n<lora:sdxl:0.8>\n<lora:flux:0.5>"
ADD = f"""() => {{
  const tracker = {d.TRACKER}
  tracker.activeState = JSON.parse(JSON.stringify(app.rootGraph.serialize()))
}}"""


@pytest.fixture(autouse=True)
def nothing_before(page):
    """ComfyUI keeps fifty steps, and outputs by the ids of nodes."""
    page.evaluate(
        f"""() => {{
          const tracker = {d.TRACKER}
          tracker.undoQueue.length = tracker.redoQueue.length = 0
          for (const id of Object.keys(app.nodeOutputs)) delete app.nodeOutputs[id]
        }}"""
    )


@contextmanager
def slow(page):
    """As on a machine that has other things to do."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOW})
    try:
        yield
    finally:
        session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        session.detach()


def press(page, *keys):
    """Keys on the element that has the focus, in one go: no frame and no clock comes in between."""
    page.evaluate(
        """(keys) => {
          for (const [key, altKey] of keys) {
            const all = { key, code: key, altKey, bubbles: true, cancelable: true, composed: true }
            document.activeElement.dispatchEvent(new KeyboardEvent('keydown', all))
            document.activeElement.dispatchEvent(new KeyboardEvent('keyup', all))
          }
        }""",
        list(keys),
    )


def test_two_actions_at_once_are_two_steps(page):
    node = s.stack(page, ROWS)
    s.row(page, node, 2).locator(".strata-file").focus()
    before = d.steps(page)
    press(page, ("ArrowUp", True), ("Delete", False))
    assert s.text(page, node) == "<lora:sd15:1>\n<lora:sdxl:0.8>"
    # What an editor adds to its last step, and when, takes nothing from this one.
    d.rest(page, 700)
    assert d.steps(page) == before + 2
    d.undo(page)
    assert s.text(page, node) == "<lora:sd15:1>\n<lora:flux:0.5>\n<lora:sdxl:0.8>"
    d.undo(page)
    assert s.text(page, node) == ROWS


def test_what_an_editor_adds_to_the_last_step_while_one_lasts_is_not_taken_from_it(page):
    node = s.stack(page, ROWS)
    before = d.steps(page)
    box = s.bar(page, node, 1).bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 8, steps=3)
    assert s.text(page, node) != ROWS
    # 1.48 to 1.5x do this 50 ms after a step; whoever is quick, or has a slow machine, drags already.
    page.evaluate(ADD)
    page.mouse.move(box["x"] + 90, box["y"] + 8, steps=3)
    page.mouse.up()
    assert d.steps(page) == before + 1
    d.undo(page)
    assert s.text(page, node) == ROWS


def test_each_kind_of_action_is_one_step_on_a_slow_page(page):
    # One node or one chain: ComfyUI numbers others anew when it goes back, and takes that for a change (until 1.5x).
    node = s.stack(page, ROWS)
    with slow(page):
        steps = Steps(page, lambda: s.text(page, node))
        s.row(page, node, 1).locator(".strata-switch").click()
        steps.made("a switch")
        s.bar(page, node, 0).focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        steps.made("two keys on a strength", 2)
        s.menu(page, node, 0, "Duplicate")
        steps.made("a row more")
        s.row(page, node, 2).locator(".strata-file").focus()
        page.keyboard.press("Alt+ArrowUp")
        page.keyboard.press("Delete")
        steps.made("a row's move, and its end", 2)
        steps.take_back()
    page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", node)
    desk, loader = d.add_pair(page, "sd15.safetensors")
    with slow(page):
        steps = Steps(page, lambda: (d.text(page, desk), d.prompt(page, loader)["strength_model"]))
        d.drag(page, desk, "IN04", 0.5)
        steps.made("a fader")
        d.fader(page, desk, "IN05").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        steps.made("two keys on a fader", 2)
        d.strength(page, loader, "strength_model").focus()
        page.keyboard.press("ArrowRight")
        steps.made("a key on the loader's strength")
        steps.take_back()


class Steps:
    """What undo can take back, action by action."""

    def __init__(self, page, look):
        self.page, self.look = page, look
        self.count, self.seen = d.steps(page), [look()]

    def made(self, what, steps=1):
        now = d.steps(self.page)
        assert now == self.count + steps, what
        self.count = now
        self.seen += [None] * (steps - 1) + [self.look()]

    def take_back(self):
        for before in self.seen[-2::-1]:
            d.undo(self.page)
            # A slow page shows late what the graph has at once; what took two steps never becomes this one.
            if before is not None:
                d.comes(self.page, self.look, before)


MODIFIED = "() => app.extensionManager.workflow.activeWorkflow.isModified"
LONG = "Saved, error 0.01 %: a_name_that_somebody_gave_it_to_tell_all_about_the_training.safetensors " * 3
HEIGHT = "(id) => app.graph.getNodeById(id).size[1]"


def as_opened(page):
    """What is there now is the workflow as it was opened: nothing is modified."""
    d.remember(page)
    page.evaluate(f"() => {{ {d.TRACKER}.reset(); {d.TRACKER}.updateModified() }}")
    assert not page.evaluate(MODIFIED)
    return d.steps(page)


def press_nothing(page):
    """A click into the empty canvas, after which ComfyUI records what is another."""
    page.mouse.click(1300, 850)
    d.rest(page, 200)


@pytest.mark.parametrize("kind", ["StrataLoraSave", "StrataLoraExtract"])
def test_the_room_for_what_a_run_tells_is_no_step(page, kind):
    node = d.add(page, kind, (420, 120))
    d.rest(page, 800)
    steps, height = as_opened(page), page.evaluate(HEIGHT, node)
    page.evaluate(
        """([id, text]) => {
          const output = app.nodeOutputs[id] = { strata_verdict: [text] }
          comfyAPI.api.api.dispatchCustomEvent('executed', { node: id, output })
        }""",
        [node, LONG],
    )
    line = "(id) => app.graph.getNodeById(id).widgets.some((w) => w.name === 'strata_result' && w.element.offsetHeight)"
    page.wait_for_function(line, arg=node, timeout=d.READY)
    d.rest(page, 1000)
    if d.renderer(page) == "canvas":  # nodes of the page have room for the inputs that they hide
        assert page.evaluate(HEIGHT, node) > height + 20
    press_nothing(page)
    page.evaluate(f"() => {d.TRACKER}.updateModified()")
    assert d.steps(page) == steps and not page.evaluate(MODIFIED)


def test_an_error_has_its_room_in_inspect_and_gives_it_back(page):
    node = d.add(page, "StrataLoraInspect", (420, 120), lora_name="sd15.safetensors")
    d.element(page, node, "strata_inspect").locator("svg text").first.wait_for(timeout=d.READY)
    d.rest(page, 1000)
    steps, height = as_opened(page), page.evaluate(HEIGHT, node)
    told = "([id, text]) => comfyAPI.api.api.dispatchCustomEvent('execution_error', { node_id: id, exception_message: text })"
    page.evaluate("() => comfyAPI.api.api.dispatchCustomEvent('execution_start', { prompt_id: 'first', timestamp: 0 })")
    page.evaluate(told, [node, LONG])
    page.wait_for_function(f"([id, least]) => ({HEIGHT})(id) > least", arg=[node, height + 20], timeout=d.READY)
    d.rest(page, 1000)
    press_nothing(page)
    page.evaluate(f"() => {d.TRACKER}.updateModified()")
    assert d.steps(page) == steps and not page.evaluate(MODIFIED)
    page.evaluate("() => comfyAPI.api.api.dispatchCustomEvent('execution_start', { prompt_id: 'next', timestamp: 0 })")
    page.wait_for_function(f"([id, most]) => ({HEIGHT})(id) <= most", arg=[node, height + 1], timeout=d.READY)
    d.rest(page, 1000)
    press_nothing(page)
    page.evaluate(f"() => {d.TRACKER}.updateModified()")
    assert d.steps(page) == steps and not page.evaluate(MODIFIED)


def test_a_workflow_is_as_it_was_opened_when_the_only_edit_after_a_run_is_taken_back(page):
    node = s.stack(page, ROWS)
    steps, height = as_opened(page), page.evaluate(HEIGHT, node)
    page.evaluate(
        """([id, text]) => {
          app.nodeOutputs[id] = { strata_rows: ['sd15', 'sdxl'].map((name) => ({ name, verdict: text, warned: true })) }
        }""",
        [node, LONG],
    )
    page.wait_for_function(f"([id, least]) => ({HEIGHT})(id) > least", arg=[node, height + 20], timeout=d.READY)
    d.rest(page, 1000)
    s.row(page, node, 2).locator(".strata-switch").click()
    assert d.steps(page) == steps + 1
    d.undo(page)
    s.says(page, node, ROWS)
    press_nothing(page)
    assert d.steps(page) == steps and not page.evaluate(MODIFIED)


def zoom(page, scale):
    page.evaluate("(scale) => { app.canvas.ds.scale = scale; app.canvas.setDirty(true, true) }", scale)
    d.rest(page, 1000)


@pytest.mark.parametrize("kind", ["StrataLoraStack", "StrataLoraInspect"])
def test_what_a_run_told_has_its_room_when_one_looks_from_afar(page, kind):
    """ComfyUI's canvas hides elements of nodes that are small on the screen."""
    if kind == "StrataLoraStack":
        node = s.stack(page, ROWS)
    else:
        node = d.add(page, kind, (420, 120), lora_name="sd15.safetensors")
        d.element(page, node, "strata_inspect").locator("svg text").first.wait_for(timeout=d.READY)
    d.rest(page, 1000)
    height = page.evaluate(HEIGHT, node)
    page.evaluate(
        """([id, text]) => {
          const { api } = comfyAPI.api
          api.dispatchCustomEvent('execution_start', { prompt_id: 'first', timestamp: 0 })
          app.nodeOutputs[id] = { strata_rows: ['sd15', 'sdxl'].map((name) => ({ name, verdict: text, warned: true })) }
          api.dispatchCustomEvent('execution_error', { node_id: id, exception_message: text })
        }""",
        [node, LONG],
    )
    page.wait_for_function(f"([id, least]) => ({HEIGHT})(id) > least", arg=[node, height + 20], timeout=d.READY)
    d.rest(page, 1000)
    steps, told = as_opened(page), page.evaluate(HEIGHT, node)
    try:
        zoom(page, 0.25)
        assert page.evaluate(HEIGHT, node) == told
    finally:
        zoom(page, 1)
    press_nothing(page)
    page.evaluate(f"() => {d.TRACKER}.updateModified()")
    assert page.evaluate(HEIGHT, node) == told
    assert d.steps(page) == steps and not page.evaluate(MODIFIED)


def test_what_an_error_says_goes_with_what_it_was_about_and_takes_its_room_along(page):
    loader = d.add(page, "StrataLoraLoader", (420, 120), lora_name="sd15.safetensors")
    line = d.element(page, loader).locator(".strata-verdict")
    page.wait_for_function(
        f"(id) => {d.ELEMENT}(id).querySelector('.strata-verdict').textContent", arg=loader, timeout=d.READY
    )
    d.rest(page, 500)
    steps, height = as_opened(page), page.evaluate(HEIGHT, loader)
    d.strength(page, loader, "strength_model").focus()
    page.keyboard.press("ArrowRight")
    assert d.steps(page) == steps + 1
    page.evaluate(
        """([id, text]) => {
          const say = (event, told) => comfyAPI.api.api.dispatchCustomEvent(event, { prompt_id: 'next', ...told })
          say('execution_start', {})
          say('execution_error', { node_id: id, exception_message: text })
        }""",
        [loader, LONG],
    )
    page.wait_for_function("([id, height]) => app.graph.getNodeById(id).size[1] > height + 20", arg=[loader, height])
    d.rest(page, 500)
    press_nothing(page)
    assert d.steps(page) == steps + 1
    d.undo(page)
    line = d.element(page, loader).locator(".strata-verdict")
    assert not line.evaluate("(shown) => shown.classList.contains('wrong')")
    page.wait_for_function("([id, height]) => app.graph.getNodeById(id).size[1] <= height + 1", arg=[loader, height])
    press_nothing(page)
    page.keyboard.press("Control+y")
    page.evaluate(d.RESTORED)
    line = d.element(page, loader).locator(".strata-verdict.wrong")
    line.wait_for()


def walk(page, look, states):
    """All the way back and forth again."""
    ways = [*((d.undo, at) for at in range(len(states) - 2, -1, -1)), *((d.redo, at) for at in range(1, len(states)))]
    for way, at in ways:
        way(page)
        d.comes(page, lambda: (way.__name__, at, look()), (way.__name__, at, states[at]))  # noqa: B023


def test_heights_go_back_and_forth_with_their_steps(page):
    loader = d.add(page, "StrataLoraLoader", (420, 120), lora_name="sd15.safetensors")
    d.rest(page, 1500)
    d.remember(page)
    look = lambda: round(page.evaluate(HEIGHT, loader))  # noqa: E731
    states = [look()]
    for _ in range(2):
        d.element(page, loader).locator("[data-act=details]").click()
        d.rest(page, 900)
        states.append(look())
    assert states[1] > states[0] + 100
    walk(page, look, states)


def test_a_node_that_a_hand_made_taller_is_that_tall_again_when_a_result_is_gone(page):
    node = d.add(page, "StrataLoraSave", (420, 120))
    d.rest(page, 800)
    own = page.evaluate(HEIGHT, node)
    page.evaluate(
        "([id, height]) => { const n = app.graph.getNodeById(id); n.setSize([n.size[0], height]) }", [node, own + 30]
    )
    d.rest(page, 400)
    own = page.evaluate(HEIGHT, node)
    say = "([id, text]) => { app.nodeOutputs[id] = { strata_verdict: [text] } }"
    page.evaluate(say, [node, LONG])
    if d.renderer(page) == "canvas":
        page.wait_for_function(f"([id, own]) => ({HEIGHT})(id) > own + 20", arg=[node, own], timeout=d.READY)
    d.rest(page, 2000)
    page.evaluate(say, [node, "Saved"])
    page.wait_for_function(f"([id, own]) => ({HEIGHT})(id) <= own + 1", arg=[node, own], timeout=d.READY)
    d.rest(page, 1000)
    assert page.evaluate(HEIGHT, node) == pytest.approx(own, abs=1)
