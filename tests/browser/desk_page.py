"""What a person does with a desk, as functions of a Playwright page; and what the desk, the node and the prompt then say."""

import json
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import TimeoutError

from strata.devtools.browser import wait_until_open

READY = 60_000  # ms; the machine may be busy
SCREENS = Path(__file__).resolve().parents[2] / "out" / "screens"


def reload(page):
    page.reload()
    wait_until_open(page)


@contextmanager
def held_back(page, path="/strata/lora*"):
    """The server's answers wait inside this block; it holds the requests."""
    waiting = []
    page.route(f"**{path}", lambda route: waiting.append(route))
    try:
        yield waiting
    finally:
        for route in waiting:
            route.continue_()
        page.unroute(f"**{path}")


def renderer(page):
    return "vue" if page.evaluate("() => LiteGraph.vueNodesMode") else "canvas"


def screenshot(page, name, *nodes):
    """The nodes of a pair, for people to look at."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    height = page.evaluate(
        "(ids) => Math.max(...ids.map((id) => app.canvas.graph.getNodeById(id).size[1]))", list(nodes)
    )
    clip = {"x": 405, "y": 70, "width": 800, "height": height + 110}
    page.screenshot(path=SCREENS / f"{name}.png", clip=clip)


def add(page, kind="StrataLoraBlockWeights", at=(420, 120), **values):
    """A node, by id. Values set its widgets as a hand would."""
    return page.evaluate(
        """([kind, at, values]) => {
          const node = LiteGraph.createNode(kind)
          node.pos = [...at]
          app.graph.add(node)
          for (const [name, value] of Object.entries(values)) setWidget(node, name, value)
          function setWidget(node, name, value) {
            const widget = node.widgets.find((w) => w.name === name)
            widget.value = value
            widget.callback?.(value)
          }
          return String(node.id)
        }""",
        [kind, list(at), values],
    )


def add_pair(page, lora, **values):
    """A desk wired to a loader with this LoRA: (desk id, loader id)."""
    loader = add(page, "StrataLoraLoader", (950, 120), lora_name=lora)
    desk = add(page, **values)
    connect(page, desk, loader)
    wait_for_lora(page, desk, lora)
    remember(page)
    return desk, loader


def make_runnable(page, loader, checkpoint):
    """A checkpoint in front of the loader, and its report shown behind it: it can be queued, and nothing is sampled."""
    page.evaluate(
        """([loader, checkpoint]) => {
          const source = LiteGraph.createNode('CheckpointLoaderSimple'), preview = LiteGraph.createNode('PreviewAny')
          app.graph.add(source)
          app.graph.add(preview)
          const node = app.graph.getNodeById(loader)
          source.pos = [60, 560]
          preview.pos = [1350, 120]
          source.widgets.find((w) => w.name === 'ckpt_name').value = checkpoint
          source.connect(0, node, 0)
          source.connect(1, node, 1)
          node.connect(3, preview, 0)
        }""",
        [loader, checkpoint],
    )


def remember(page):
    """What scripts did to the graph becomes a step of its own for undo."""
    page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")


def choose(page, node, name, value):
    """Sets a widget as a hand on it does: value, then callback."""
    page.evaluate(
        """([id, name, value]) => {
          const widget = app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === name)
          widget.value = value
          widget.callback(value)
        }""",
        [node, name, value],
    )


def connect(page, desk, loader):
    page.evaluate(
        """([desk, loader]) => {
          const to = app.canvas.graph.getNodeById(loader)
          app.canvas.graph.getNodeById(desk).connect(0, to, to.inputs.findIndex((input) => input.name === 'block_weights'))
        }""",
        [desk, loader],
    )


def wait_for_lora(page, desk, lora):
    name = lora.split("/")[-1].removesuffix(".safetensors")
    page.wait_for_function(
        "([id, name]) => widgetElement(id)?.querySelector('.strata-about')?.textContent.endsWith(name)".replace(
            "widgetElement", ELEMENT
        ),
        arg=[desk, name],
        timeout=READY,
    )
    settle(page)


ELEMENT = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => ['strata_desk', 'strata_line'].includes(w.name))?.element)"


def element(page, node, widget=""):
    """The element of a node's desk or line, or of another widget by its name, as a locator."""
    page.evaluate(
        f"""([id, name]) => {{
          const mark = `${{id}} ${{name}}`
          document.querySelectorAll('[data-test-node]').forEach((other) => other.dataset.testNode === mark && delete other.dataset.testNode)
          const shown = name ? app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === name).element : {ELEMENT}(id)
          shown.dataset.testNode = mark
        }}""",
        [node, widget],
    )
    return page.locator(f"[data-test-node='{node} {widget}']")


def strength(page, loader, name):
    """The bar of a strength: a slider; its field for typing is beside it."""
    return element(page, loader, "strata_strengths").locator(f"[data-strength={name}] [role=slider]")


def fader(page, node, name):
    return element(page, node).locator(f"[data-name='{name}']")


def rest(page, ms):
    """These ms, and as many frames as a page with time has in half of them: on a busy machine both the clock and the layout are late."""
    page.evaluate(
        """async (ms) => {
          const frames = async (count) => { while (count-- > 0) await new Promise(requestAnimationFrame) }
          await Promise.all([frames(ms / 32), new Promise((done) => setTimeout(done, ms))])
        }""",
        ms,
    )


def comes(page, look, wanted, timeout=READY):
    """Asserts that what is looked at is, or soon becomes, what is wanted: a slow page shows it late."""
    until = time.monotonic() + timeout / 1000
    while (seen := look()) != wanted and time.monotonic() < until:
        page.wait_for_timeout(50)
    assert seen == wanted


def settle(page):
    """Until the clock has looked and the picture is drawn."""
    rest(page, 300)


def shown(page, node):
    """fader -> weight, as a screen reader is told and as the cap's place says; the two must agree."""
    found = page.evaluate(
        f"""(id) => {{
          const root = {ELEMENT}(id)
          return [...root.querySelectorAll('.strata-fader:not(.strata-master)')].map((slider) => {{
            const [low, high, now] = ['min', 'max', 'now'].map((which) => Number(slider.getAttribute('aria-value' + which)))
            const at = parseFloat(slider.style.getPropertyValue('--at')) / 100
            return [slider.dataset.name, now, low + (high - low) * at]
          }})
        }}""",
        node,
    )
    for name, told, drawn in found:
        assert abs(told - drawn) < 1e-3, (name, told, drawn)
    return {name: told for name, told, _ in found}


def text(page, node):
    return page.evaluate(
        "(id) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'weights').value", node
    )


def set_text(page, node, value):
    page.evaluate(
        "([id, value]) => { app.canvas.graph.getNodeById(id).widgets.find((w) => w.name === 'weights').value = value }",
        [node, value],
    )
    settle(page)
    rest(page, 300)


def prompt(page, node):
    return page.evaluate("async (id) => (await app.graphToPrompt()).output[id].inputs", node)


def meaning(server, value, **where):
    """What the server's own grammar makes of a text."""
    return server.post_json("/strata/weights", {"text": value, **where})["values"]


def agree(page, server, node, **where):
    """The text, the picture and the prompt say the same; returns fader -> weight."""
    settle(page)
    picture = shown(page, node)
    assert prompt(page, node)["weights"] == text(page, node)
    assert picture == meaning(server, text(page, node), **where)
    return picture


def drag(page, node, name, weight, steps=6, modifiers=()):
    """Takes a fader by its cap and pulls it to a weight, straight up or down."""
    x, cap, bottom, height, low, high = _place(page, node, name)
    target = bottom - height * (weight - low) / (high - low)
    for key in modifiers:
        page.keyboard.down(key)
    page.mouse.move(x, cap)
    page.mouse.down()
    page.mouse.move(x, target, steps=steps)
    page.mouse.up()
    for key in modifiers:
        page.keyboard.up(key)


def paint(page, node, names, weight):
    """One stroke across faders, at the height of a weight."""
    first, last = _place(page, node, names[0]), _place(page, node, names[-1])
    y = first[2] - first[3] * (weight - first[4]) / (first[5] - first[4])
    page.mouse.move(first[0], y)
    page.mouse.down()
    page.mouse.move(last[0], y, steps=8)
    page.mouse.up()


def _place(page, node, name):
    locator = fader(page, node, name)
    slider, track = locator.bounding_box(), locator.locator(".strata-track").bounding_box()
    low, high, now = (float(locator.get_attribute(f"aria-value{key}")) for key in ("min", "max", "now"))
    bottom = track["y"] + track["height"]
    cap = bottom - track["height"] * (now - low) / (high - low)
    return slider["x"] + slider["width"] / 2, cap, bottom, track["height"], low, high


def paste(page, value):
    """Text from the clipboard onto whatever has the focus."""
    page.evaluate("(value) => navigator.clipboard.writeText(value)", value)
    page.keyboard.press("Control+v")
    rest(page, 400)


def number_nodes(page, node):
    """Has ComfyUI number the nodes and remember that. It does so at the first prompt, and takes the new numbers for a change of the
    workflow: between an undo and a redo that would end the redo, whoever's nodes they are."""
    prompt(page, node)
    page.evaluate(
        """() => {
          const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
          ;(tracker.captureCanvasState ?? tracker.checkState).call(tracker)
        }"""
    )


TRACKER = "app.extensionManager.workflow.activeWorkflow.changeTracker"
RESTORED = f"""async () => {{
  const frame = () => new Promise(requestAnimationFrame)
  // ComfyUI hears of a key in the frame after it.
  await frame()
  await frame()
  while ({TRACKER}._restoringState) await frame()
}}"""
# What a key is to take back or to bring again; and whether it has done so.
BEFORE_KEY = f"(queue) => {{ globalThis.beforeKey = {TRACKER}[queue].at(-1) }}"
AFTER_KEY = f"(queue) => !beforeKey || (!{TRACKER}[queue].includes(beforeKey) && !{TRACKER}._restoringState)"
HEARD = 10_000  # ms; a key that a field keeps to itself takes nothing back


def undo(page):
    _restore(page, "Control+z", "undoQueue")


def redo(page):
    _restore(page, "Control+y", "redoQueue")


def _restore(page, key, queue):
    page.evaluate(BEFORE_KEY, queue)
    page.keyboard.press(key)
    page.evaluate(RESTORED)
    with suppress(TimeoutError):
        page.wait_for_function(AFTER_KEY, arg=queue, timeout=HEARD)
    rest(page, 500)


def steps(page):
    """How many steps undo can take back, once every step has ended."""
    page.wait_for_function(f"() => {TRACKER}.changeCount === 0", timeout=READY)
    return page.evaluate(f"() => {TRACKER}.undoQueue.length")


def vector(*numbers):
    return ",".join(json.dumps(number) for number in numbers)
