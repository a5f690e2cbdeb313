"""The rows of a LoRA Stack in both renderers: every edit against the text, the prompt and the saved workflow."""

import json

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

ROWS = """# Style
<lora:sd15:0.8>
off <lora:sdxl:0.6:0.3> // too dark
<lora:flux:1:lbw=D*=1,default=0>"""


def test_rows_show_what_the_text_says_and_edits_write_it(page):
    node = s.stack(page, ROWS)
    view = s.element(page, node)
    assert view.locator(".strata-short").all_text_contents()[1:] == ["sd15", "sdxl", "flux"]
    assert view.locator("[data-act=allSwitch]").text_content() == "2 / 3"
    assert s.sent(page, node) == "<lora:sd15:0.8>\n<lora:flux:1:lbw=D*=1,default=0>"
    s.row(page, node, 2).locator(".strata-switch").click()
    assert s.text(page, node) == ROWS.replace("off <lora:sdxl", "<lora:sdxl")
    d.undo(page)
    assert s.text(page, node) == ROWS
    s.row(page, node, 0).locator(".strata-switch").click()  # the group's
    assert s.sent(page, node) == ""
    assert s.text(page, node) == f"off {ROWS}"
    d.undo(page)
    # Strength: typed by a double click, then by keys, then dragged.
    s.bar(page, node, 1).dblclick()
    page.keyboard.type("-3,5")
    page.keyboard.press("Enter")
    assert "<lora:sd15:-3.5>" in s.text(page, node)
    s.bar(page, node, 1).focus()
    page.keyboard.press("ArrowRight")
    assert "<lora:sd15:-3.45>" in s.text(page, node)
    s.bar(page, node, 1).click(button="right")
    assert "<lora:sd15:1>" in s.text(page, node)
    # Of two strengths each has its own bar, and its own number.
    s.bar(page, node, 2, 1).focus()
    page.keyboard.press("ArrowLeft")
    assert "<lora:sdxl:0.6:0.25>" in s.text(page, node)
    d.screenshot(page, f"stack-{d.renderer(page)}", node)


def test_order_copies_and_removal(page):
    node = s.stack(page, "<lora:sd15:1>\n<lora:sdxl:1>\n<lora:flux:1>")
    first, last = (s.row(page, node, at).locator(".strata-handle").bounding_box() for at in (0, 2))
    page.mouse.move(first["x"] + 5, first["y"] + 12)
    page.mouse.down()
    page.mouse.move(last["x"] + 5, last["y"] + 24, steps=5)
    page.mouse.up()
    assert s.text(page, node) == "<lora:sdxl:1>\n<lora:flux:1>\n<lora:sd15:1>"
    s.row(page, node, 2).locator(".strata-file").focus()
    page.keyboard.press("Alt+ArrowUp")
    assert s.text(page, node) == "<lora:sdxl:1>\n<lora:sd15:1>\n<lora:flux:1>"
    page.keyboard.press("Delete")
    assert s.text(page, node) == "<lora:sdxl:1>\n<lora:flux:1>"
    d.undo(page)
    assert s.text(page, node) == "<lora:sdxl:1>\n<lora:sd15:1>\n<lora:flux:1>"
    s.menu(page, node, 0, "Duplicate")
    assert s.text(page, node) == "<lora:sdxl:1>\n<lora:sdxl:1>\n<lora:sd15:1>\n<lora:flux:1>"
    s.menu(page, node, 0, "Lock")
    s.act(page, node, "stackMenu").click()
    page.get_by_label("Multiply all by").fill("0.5")
    page.keyboard.press("Enter")
    s.says(page, node, "lock <lora:sdxl:1>\n<lora:sdxl:0.5>\n<lora:sd15:0.5>\n<lora:flux:0.5>")
    s.act(page, node, "stackMenu").click()
    page.get_by_label("Scale to a total of").fill("1.9")
    page.keyboard.press("Enter")
    s.says(page, node, "lock <lora:sdxl:1>\n<lora:sdxl:0.3>\n<lora:sd15:0.3>\n<lora:flux:0.3>")
    s.act(page, node, "allSwitch").click()
    assert s.text(page, node) == "lock <lora:sdxl:1>\noff <lora:sdxl:0.3>\noff <lora:sd15:0.3>\noff <lora:flux:0.3>"


def test_what_is_missing_or_not_understood_is_red_and_can_be_mended(page):
    node = s.stack(page, "<lora:old/sd15_v2:0.7>\nwhat is this\na cat, <lora:flux:1>, <lora:wan:.5>")
    assert [s.row(page, node, at).get_attribute("class").split()[1:] for at in range(3)] == [
        ["lora", "wrong"],
        ["unread", "wrong"],
        ["prompt"],
    ]
    said = s.row(page, node, 0).locator(".strata-said")
    assert said.text_content().startswith(
        "LoRA 'old/sd15_v2' is not in your loras folders"
    )  # whole, and not only a tooltip
    assert said.evaluate("(shown) => shown.scrollHeight <= shown.clientHeight")
    said.locator(".strata-word", has_text="sd15").first.click()
    assert s.text(page, node).startswith("<lora:sd15:0.7>\n")
    s.row(page, node, 2).locator(".strata-file").click()
    s.row(page, node, 2).locator(".strata-button", has_text="Make rows").click()
    s.says(page, node, "<lora:sd15:0.7>\nwhat is this\n<lora:flux:1>\n<lora:wan:0.5>")
    d.screenshot(page, f"stack-wrong-{d.renderer(page)}", node)


def test_notes_blocks_and_pasted_text(page):
    node = s.stack(page, "<lora:sd15:1>")
    s.menu(page, node, 0, "Details")
    behind = s.row(page, node, 0).locator(".strata-behind input")
    behind.nth(2).fill("mine")
    behind.nth(2).press("Enter")
    behind.nth(0).fill("OUT*=1, default=0")
    behind.nth(0).press("Enter")
    s.says(page, node, "<lora:sd15:1:lbw=OUT*=1, default=0> // mine")
    s.element(page, node).locator("[data-act=addLora]").focus()
    d.paste(page, "portrait, <lora:flux:0.5>, <lora:wan:0.4:0.2>")
    pasted = "<lora:sd15:1:lbw=OUT*=1, default=0> // mine\n<lora:flux:0.5>\n<lora:wan:0.4:0.2>"
    s.says(page, node, pasted)
    rgthree = {"lora_1": {"on": False, "lora": "qwen.safetensors", "strength": 0.5, "strengthTwo": 0.25}}
    d.paste(page, json.dumps(rgthree))
    s.says(page, node, f"{pasted}\noff <lora:qwen.safetensors:0.5:0.25>")
    d.undo(page)
    s.says(page, node, pasted)


def test_sets(page, server):
    node = s.stack(page, ROWS)
    s.act(page, node, "sets").click()
    page.get_by_label("Save these rows as").fill(f"Mine {d.renderer(page)}")
    page.keyboard.press("Enter")
    expect(page.locator(".strata-sets")).to_have_count(0)  # it closes when that is saved
    other = s.stack(page, "", at=(420, 560))
    s.act(page, other, "sets").click()
    page.locator(".strata-own .strata-item", has_text=f"Mine {d.renderer(page)}").click()
    s.says(page, other, ROWS)


def test_a_workflow_keeps_everything_and_the_prompt_what_acts(page):
    node = s.stack(page, ROWS)
    saved = page.evaluate("(id) => app.graph.getNodeById(id).serialize()", node)
    assert saved["widgets_values"][:2] == [ROWS, 0]
    before = s.sent(page, node)
    assert "strata_rows" not in d.prompt(page, node)
    s.menu(page, node, 2, "Remove")
    assert s.sent(page, node) == before, "removing a row that is off sends another prompt"
    page.evaluate("() => app.loadGraphData(app.graph.serialize())")
    d.rest(page, 800)
    s.says(page, node, ROWS.replace("off <lora:sdxl:0.6:0.3> // too dark\n", ""))
    expect(s.row(page, node, 1).locator(".strata-short")).to_have_text("sd15")


def test_the_picker(page):
    node = s.stack(page, "")
    add = s.act(page, node, "addLora")
    add.click()
    picker = page.locator(".strata-picker")
    expect(picker.locator(".strata-choice").nth(5)).to_be_attached()
    page.keyboard.type("sd15")
    expect(picker.locator(".strata-named span").first).to_have_text("sd15")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Control+a")
    page.keyboard.type("qwen")
    expect(picker.locator(".strata-short").first).to_have_text("qwen")
    page.screenshot(path=d.SCREENS / f"picker-{d.renderer(page)}.png")
    page.keyboard.press("Enter")
    expect(picker).not_to_be_visible()
    d.comes(page, lambda: s.text(page, node).strip(), "<lora:sd15:1>\n<lora:qwen:1>")
    add.click()
    page.keyboard.press("Escape")
    expect(picker).not_to_be_visible()
    d.undo(page)
    d.comes(page, lambda: s.text(page, node).strip(), "<lora:sd15:1>")


def test_fifty_rows_and_a_narrow_node(page):
    rows = "\n".join(f"<lora:{('sd15', 'sdxl', 'flux')[n % 3]}:{n / 50:g}>" for n in range(50))
    node = s.stack(page, rows, width=300)
    expect(s.element(page, node).locator(".strata-lora")).to_have_count(50)
    height = page.evaluate("(id) => app.graph.getNodeById(id).size[1]", node)
    assert height < 800
    box = s.element(page, node).bounding_box()
    for at in (0, 5):
        inner = s.row(page, node, at).bounding_box()
        assert inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
    d.screenshot(page, f"stack-50-{d.renderer(page)}", node)


CHAIN = """() => {
  const make = (kind, at, values) => {
    const node = LiteGraph.createNode(kind)
    node.pos = [40 + 380 * at, 120]
    app.graph.add(node)
    for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value
    return node
  }
  const source = make('CheckpointLoaderSimple', 0, {})
  const first = make('LoraLoader', 1, {lora_name: 'sd15.safetensors', strength_model: 0.5, strength_clip: 0.25})
  const last = make('StrataLoraLoader', 2, {lora_name: 'flux.safetensors', strength_model: 0.7, strength_clip: 0.7})
  const text = make('CLIPTextEncode', 3, {})
  source.connect(0, first, 0)
  source.connect(1, first, 1)
  first.connect(0, last, 0)
  first.connect(1, last, 1)
  last.connect(1, text, 0)
  return [source, first, last, text].map((node) => String(node.id))
}"""


def test_a_chain_becomes_a_stack_by_a_click_and_comes_back_by_undo(page):
    source, _, last, text = page.evaluate(CHAIN)
    d.remember(page)
    d.rest(page, 300)
    items = page.evaluate(
        """(id) => {
          const node = app.graph.getNodeById(id)
          const ours = (one) => one.getNodeMenuItems && one.name.toLowerCase().startsWith('strata')
          const found = app.extensions.find(ours).getNodeMenuItems(node)
          found[0].callback()
          return found.map((item) => item.content)
        }""",
        last,
    )
    assert items == ["Replace this chain by LoRA Stack (Strata)"]
    d.rest(page, 700)
    kinds = lambda: page.evaluate("() => app.graph.nodes.map((node) => node.type).sort()")  # noqa: E731
    d.comes(page, kinds, ["CLIPTextEncode", "CheckpointLoaderSimple", "StrataLoraStack"])
    node = page.evaluate("() => String(app.graph.nodes.find((node) => node.type === 'StrataLoraStack').id)")
    assert s.text(page, node) == "<lora:sd15.safetensors:0.5:0.25>\n<lora:flux.safetensors:0.7>"
    output = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert output[node]["inputs"]["model"] == [source, 0]
    assert output[node]["inputs"]["clip"] == [source, 1]
    assert output[text]["inputs"]["clip"] == [node, 1]
    d.undo(page)
    d.comes(page, kinds, ["CLIPTextEncode", "CheckpointLoaderSimple", "LoraLoader", "StrataLoraLoader"])


def test_a_loader_with_a_mask_which_rows_cannot_hold_is_offered_no_stack(page):
    _, _, last, _ = page.evaluate(CHAIN)
    offered = """([id, masked]) => {
      const node = app.graph.getNodeById(id)
      if (masked) {
        const mask = LiteGraph.createNode('SolidMask')
        app.graph.add(mask)
        mask.connect(0, node, node.findInputSlot('mask'))
      }
      const ours = (one) => one.getNodeMenuItems && one.name.toLowerCase().startsWith('strata')
      return app.extensions.find(ours).getNodeMenuItems(node).map((item) => item.content)
    }"""
    assert page.evaluate(offered, [last, False]) == ["Replace this chain by LoRA Stack (Strata)"]
    assert page.evaluate(offered, [last, True]) == []


def test_a_fresh_loader_has_no_file_and_the_picker_chooses_one(page):
    loader = d.add(page, "StrataLoraLoader")
    d.rest(page, 600)
    value = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'lora_name').value"
    assert page.evaluate(value, loader) == "Choose a LoRA"
    line = page.locator(".strata-line").last
    assert line.locator(".strata-verdict.wrong").count() == 0
    line.locator("[data-act=choose]").click()
    s.pick(page, "qwen", "qwen")
    d.comes(page, lambda: page.evaluate(value, loader), "qwen.safetensors")
    assert d.prompt(page, loader)["lora_name"] == "qwen.safetensors"


def test_a_new_heading_waits_for_its_name(page):
    node = s.stack(page, "<lora:sd15:1>")
    s.act(page, node, "stackMenu").click()
    page.locator(".strata-free .strata-item", has_text="heading").first.click()
    page.keyboard.type("My style")
    page.keyboard.press("Enter")
    s.says(page, node, "<lora:sd15:1>\n# My style")


def test_a_strength_that_cannot_be_taken_says_why(page):
    node = s.stack(page, "<lora:sd15:0.5>", width=260)
    s.bar(page, node, 0).dblclick()
    page.keyboard.type("abc")
    page.keyboard.press("Enter")
    note = s.element(page, node).locator(".strata-verdict")
    expect(note).to_contain_text('"abc" is not taken')
    s.still(page, node)
    assert note.evaluate("(shown) => shown.scrollHeight <= shown.clientHeight")  # whole
    page.keyboard.press("Escape")
    expect(note).to_have_text("")
    assert s.text(page, node) == "<lora:sd15:0.5>"
