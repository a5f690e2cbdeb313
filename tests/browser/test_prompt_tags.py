"""The tags of LoRA from Prompt as rows, in both renderers: every edit against the text and the prompt."""

import desk_page as d
import pytest

pytestmark = pytest.mark.browser

TEXT = "a sailor, <lora:sd15:0.8>, soft {light|fog}, <lora:qwen:0.5:0.3:lbw=T*=1>"
VIEW = "((id) => app.canvas.graph.getNodeById(id)?.widgets?.find((w) => w.name === 'strata_tags')?.element)"


def prompt_node(page, text, **values):
    node = d.add(page, "StrataLoraFromPrompt", (420, 120), text=text, **values)
    d.remember(page)
    d.rest(page, 500)
    return node


def panel(page, node):
    page.evaluate(f"(id) => {{ {VIEW}(id).dataset.tags = id }}", node)
    return page.locator(f"[data-tags='{node}']")


def row(page, node, at):
    return panel(page, node).locator(".strata-lora").nth(at)


def bar(page, node, at, which=0):
    return row(page, node, at).locator(".strata-strength-bar").nth(which)


def text(page, node):
    return page.evaluate("(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'text').value", node)


def field(page, node):
    """The text field, as the renderer shows it."""
    if d.renderer(page) == "vue":
        return page.locator(f"[data-node-id='{node}'] textarea").first
    mark = "(id) => { app.graph.getNodeById(id).widgets.find((w) => w.name === 'text').element.dataset.field = id }"
    page.evaluate(mark, node)
    return page.locator(f"textarea[data-field='{node}']")


def type_strength(page, node, at, number, which=0):
    bar(page, node, at, which).dblclick()
    page.keyboard.type(number)
    page.keyboard.press("Enter")


def test_each_tag_is_a_row_that_edits_its_place_in_the_text(page):
    node = prompt_node(page, TEXT)
    assert panel(page, node).locator(".strata-short").all_text_contents() == ["sd15", "qwen"]
    assert [row(page, node, at).locator(".strata-family").text_content() for at in (0, 1)] == ["SD1.5", "Qwen-Image"]
    type_strength(page, node, 0, "-3,5")
    assert text(page, node) == TEXT.replace("sd15:0.8", "sd15:-3.5")
    d.undo(page)
    assert text(page, node) == TEXT
    bar(page, node, 1, 1).focus()
    page.keyboard.press("ArrowRight")
    assert text(page, node) == TEXT.replace("0.5:0.3:", "0.5:0.35:")  # the second number alone, block weights kept
    assert d.prompt(page, node)["text"] in [text(page, node).replace("{light|fog}", one) for one in ("light", "fog")]
    d.screenshot(page, f"tags-{d.renderer(page)}", node)


def test_two_numbers_are_written_in_the_order_that_the_node_names(page):
    node = prompt_node(page, "<lora:sd15:0.3:0.8>", two_numbers="clip:model (A1111)")
    values = [bar(page, node, 0, which).get_attribute("aria-valuenow") for which in (0, 1)]
    assert values == ["0.8", "0.3"]  # the model's bar first, whatever the text's order
    type_strength(page, node, 0, "1.5")
    assert text(page, node) == "<lora:sd15:0.3:1.5>"


def test_the_picker_writes_a_tag_where_the_caret_is(page):
    node = prompt_node(page, "a sailor, at sea")
    field(page, node).click()
    field(page, node).evaluate("(shown) => shown.setSelectionRange(9, 9)")
    panel(page, node).locator("[data-act=addLora]").click()
    page.keyboard.type("sd15")
    page.keyboard.press("Shift+Enter")  # at once: it means what was typed, not what is still shown
    page.wait_for_function("(id) => app.graph.getNodeById(id).widgets[0].value.includes('sd15')", arg=node)
    page.keyboard.press("Control+a")
    page.keyboard.type("qwen")
    page.keyboard.press("Enter")
    page.wait_for_function("(id) => app.graph.getNodeById(id).widgets[0].value.split('<lora:').length === 3", arg=node)
    d.rest(page, 300)
    assert text(page, node) == "a sailor, <lora:sd15:1> <lora:qwen:1> at sea"
    assert panel(page, node).locator(".strata-short").all_text_contents() == ["sd15", "qwen"]
    # The row's room belongs to the tag's step as soon as the page has been laid out, some frames later.
    recorded = f"{d.TRACKER}.activeState.nodes.find((saved) => String(saved.id) === String(id))?.size[1]"
    page.wait_for_function(f"(id) => {recorded} === app.graph.getNodeById(id).size[1]", arg=node)
    d.rest(page, 500)
    d.undo(page)
    assert text(page, node) == "a sailor, <lora:sd15:1> at sea"
    # A click on a name chooses another file for that tag, and leaves its strength.
    type_strength(page, node, 0, "0.4")
    row(page, node, 0).locator(".strata-file").click()
    page.keyboard.type("flux")
    page.keyboard.press("Enter")
    page.wait_for_function("(id) => app.graph.getNodeById(id).widgets[0].value.includes('flux')", arg=node)
    assert text(page, node) == "a sailor, <lora:flux:0.4> at sea"


def test_a_tag_goes_with_its_comma_and_typing_reads_anew(page):
    node = prompt_node(page, "a sailor, <lora:sd15:1>, at sea")
    row(page, node, 0).locator(".strata-dots").click()
    page.locator(".strata-free .strata-item", has_text="Remove").click()
    assert text(page, node) == "a sailor, at sea"
    field(page, node).click()
    page.keyboard.press("Control+End")
    page.keyboard.type(", <lora:wan:2>")
    d.rest(page, 900)
    assert panel(page, node).locator(".strata-short").all_text_contents() == ["wan"]
    assert bar(page, node, 0).get_attribute("aria-valuenow") == "2"


def test_what_is_missing_or_not_understood_is_said_in_whole_and_can_be_mended(page):
    node = prompt_node(page, "<lora:old/sd15_v2:0.7>, <lora:flux:1:2:3>")
    said = row(page, node, 0).locator(".strata-said")
    assert said.text_content().startswith("LoRA 'old/sd15_v2' is not in your loras folders")
    assert said.evaluate("(shown) => shown.scrollHeight <= shown.clientHeight")
    assert "3 numbers" in row(page, node, 1).locator(".strata-said").text_content()
    d.screenshot(page, f"tags-wrong-{d.renderer(page)}", node)
    said.locator(".strata-word", has_text="sd15").first.click()
    d.rest(page, 500)
    assert text(page, node) == "<lora:sd15:0.7>, <lora:flux:1:2:3>"
    assert row(page, node, 0).locator(".strata-family").text_content() == "SD1.5"
    d.choose(page, node, "text", "<lora:flux:1>, not closed <lora:sd15:1")
    d.rest(page, 700)
    assert "is not closed" in row(page, node, 1).locator(".strata-said").text_content()
    assert row(page, node, 0).locator(".strata-short").text_content() == "flux"  # the good one stays


@pytest.fixture
def module(page):
    return "import('/extensions/comfyui-strata/lib/text_field.js')"


PLACES = {
    ("", 0): "<T>",
    ("a cat", 5): "a cat <T>",
    ("a cat", 0): "<T> a cat",
    ("a cat, a dog", 5): "a cat <T>, a dog",
    ("a cat\n", 6): "a cat\n<T>",
    ("x <lora:a:1> y", 5): "x <lora:a:1> <T> y",  # within a tag: behind it
    ("<lora:a:1><lora:b:1>", 10): "<lora:a:1> <T> <lora:b:1>",
}
WITHOUT = {
    "a, <lora:a:1>, b": "a, b",
    "<lora:a:1>, b": "b",
    "a, <lora:a:1>": "a",
    "a <lora:a:1> b": "a b",
    "a\n<lora:a:1>\nb": "a\n\nb",
    "<lora:a:1>": "",
    "a <lora:a:1>, b": "a, b",
}


def test_where_tags_go_and_what_they_leave(module, page):
    """Against a table made by hand."""
    found = page.evaluate(
        f"""async ([places, without]) => {{
          const {{ withTag, withoutTag }} = await {module}
          const split = (text) => {{
            const tags = (text.match(/<lora:[^>]*>/g) ?? []).map((line) => ({{ line }}))
            return [text.split(/<lora:[^>]*>/), tags]
          }}
          const joined = ({{ pieces, tags }}) => pieces.map((piece, at) => piece + (tags[at]?.line ?? '')).join('')
          return [
            places.map(([text, at]) => joined(withTag(...split(text), {{ line: '<T>' }}, at))),
            without.map((text) => joined(withoutTag(...split(text), 0))),
          ]
        }}""",
        [[list(key) for key in PLACES], list(WITHOUT)],
    )
    assert found == [list(PLACES.values()), list(WITHOUT.values())]
