"""What is behind the rows of a LoRA Stack, in both renderers: the desk of a row, trigger words, scaling, and ComfyUI's missing models."""

import copy
import math
import shutil

import desk_page as d
import pytest
import stack_page as s
from playwright.sync_api import expect

pytestmark = pytest.mark.browser
HEIGHT = "(id) => app.graph.getNodeById(id).size[1]"


def height(page, node):
    return page.evaluate(HEIGHT, node)


def test_block_weights_of_a_row_on_a_desk_in_its_place(page):
    node = s.stack(page, "<lora:sd15:0.8>\n<lora:flux:1:lbw=D*=0,default=1> // mine")
    before = height(page, node)
    s.menu(page, node, 1, "as faders")
    desk = s.row(page, node, 1).locator(".strata-desk")
    fader = desk.locator("[data-name='S03']")
    fader.wait_for()
    assert desk.locator("[data-name='D00']").get_attribute("aria-valuenow") == "0"  # what the row says
    page.wait_for_function(f"([id, least]) => ({HEIGHT})(id) > least", arg=[node, before + 120], timeout=d.READY)
    d.rest(page, 400)
    list_of = s.element(page, node).locator(".strata-stack-rows")  # no scrollbar takes room in it
    assert list_of.evaluate(
        "(e) => [e.offsetWidth - e.clientWidth, e.offsetHeight - e.clientHeight, e.scrollHeight]"
    ) == [0, 0, list_of.evaluate("(e) => e.clientHeight")]
    fader.focus()
    page.keyboard.press("ArrowDown")
    written = "<lora:sd15:0.8>\n<lora:flux:1:lbw=D*=0, S3=0.95, default=1> // mine"
    assert s.text(page, node) == written
    track = fader.locator(".strata-track").bounding_box()
    page.mouse.move(track["x"] + track["width"] / 2, track["y"] + 0.3 * track["height"])
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] / 2, track["y"] + 0.9 * track["height"], steps=6)
    page.mouse.up()
    page.wait_for_function(
        "([id, written]) => app.graph.getNodeById(id).widgets[0].value !== written",
        arg=[node, written],
        timeout=d.READY,
    )
    d.screenshot(page, f"stack-desk-{d.renderer(page)}", node)
    d.undo(page)  # the whole drag
    s.says(page, node, written)
    desk = s.row(page, node, 1).locator(".strata-desk")
    expect(desk.locator("[data-name='S03']"), "the desk outlives undo").to_have_attribute("aria-valuenow", "0.95")
    d.undo(page)
    s.says(page, node, "<lora:sd15:0.8>\n<lora:flux:1:lbw=D*=0,default=1> // mine")
    s.row(page, node, 1).locator(".strata-desk [data-name='S03']").focus()
    page.keyboard.press("Escape")
    expect(s.element(page, node).locator(".strata-desk")).to_have_count(0)
    page.wait_for_function(f"([id, most]) => ({HEIGHT})(id) <= most", arg=[node, before + 1], timeout=d.READY)
    d.rest(page, 400)
    assert height(page, node) <= before + 1


def test_a_strength_over_time_is_text_with_a_short_sign_on_its_row(page):
    node = s.stack(page, "<lora:sd15:0.8:lbw=IN*=0>\n<lora:flux:1:at=fade in> // mine\n<lora:wan:1>")
    signs = s.element(page, node).locator(".strata-time:visible")
    d.comes(page, signs.all_text_contents, ["fade in"])
    s.menu(page, node, 0, "Details")
    s.row(page, node, 0).locator(".strata-behind input").nth(1).fill("0@0, 1@50%")
    page.keyboard.press("Enter")
    d.comes(page, lambda: s.text(page, node).split("\n")[0], "<lora:sd15:0.8:lbw=IN*=0:at=0@0%, 1@50%>")
    lines = s.text(page, node).split("\n")
    d.comes(page, signs.all_text_contents, ["0\u21921", "fade in"])
    s.menu(page, node, 1, "Details")
    s.row(page, node, 1).locator(".strata-behind input").nth(1).fill("sometimes")
    page.keyboard.press("Enter")
    # In its row, and the field is still the hand's.
    expect(s.row(page, node, 1).locator(".strata-behind .strata-note.wrong:visible")).to_contain_text("'sometimes'")
    d.rest(page, 500)
    typed = s.row(page, node, 1).locator(".strata-behind input[aria-invalid]")
    assert typed.evaluate("(field) => field === document.activeElement && field.value") == "sometimes"
    assert s.element(page, node).locator(".strata-verdict.wrong").count() == 0
    assert s.text(page, node).split("\n")[1] == lines[1]
    d.screenshot(page, f"stack-time-{d.renderer(page)}", node)
    page.keyboard.press("Control+a")
    s.row(page, node, 1).locator(".strata-behind input").nth(1).fill("")
    page.keyboard.press("Enter")
    d.comes(page, lambda: s.text(page, node).split("\n")[1], "<lora:flux:1> // mine")
    assert d.prompt(page, node)["rows"] == "<lora:sd15:0.8:lbw=IN*=0:at=0@0%, 1@50%>\n<lora:flux:1>\n<lora:wan:1>"


def test_trigger_words_are_copied_or_written_into_a_chosen_text(page):
    prompt = d.add(page, "CLIPTextEncode", (950, 120), text="a portrait,")
    d.rest(page, 500)  # the stack of the test before is not taken for one that undo replaced
    node = s.stack(page, "<lora:sd15:1>")
    s.menu(page, node, 0, "Details")
    words = s.row(page, node, 0).locator(".strata-triggers")
    words.locator(".strata-word", has_text="portrait").first.click()
    d.comes(page, lambda: page.evaluate("navigator.clipboard.readText()"), "portrait")
    words.locator("select").select_option(index=1)
    d.rest(page, 300)
    words.locator(".strata-word").nth(0).click()
    shown = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'text').value"
    d.comes(page, lambda: page.evaluate(shown, prompt), "a portrait, ohwx woman")
    d.undo(page)
    d.comes(page, lambda: page.evaluate(shown, prompt), "a portrait,")


def test_rows_are_scaled_together_by_what_is_in_the_files(page, server):
    """So that sqrt(sum (strength norm)^2) is 0.8 of the middle norm; the norms are those of the server's profiles."""
    node = s.stack(page, "<lora:sd15:0.5>\nlock <lora:flux:0.1>\noff <lora:wan:3>\n<lora:sdxl:1:0.5>")
    s.act(page, node, "stackMenu").click()
    page.get_by_label("Together as far as one at").fill("0.8")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "(id) => !app.graph.getNodeById(id).widgets[0].value.startsWith('<lora:sd15:0.5>')", arg=node
    )
    lines = s.text(page, node).split("\n")
    assert lines[1:3] == ["lock <lora:flux:0.1>", "off <lora:wan:3>"]
    found = {line.split(":")[1]: [float(n) for n in line.rstrip(">").split(":")[2:]] for line in lines}
    assert found["sdxl"][1] == pytest.approx(found["sdxl"][0] / 2, abs=1e-3)
    assert found["sd15"][0] == pytest.approx(found["sdxl"][0] / 2, abs=1e-3)
    norms = {
        name: server.get_json(f"/strata/lora?name={name}.safetensors")["norm"] for name in ("sd15", "flux", "sdxl")
    }
    together = math.hypot(*(found[name][0] * norms[name] for name in norms))
    assert together == pytest.approx(0.8 * math.sqrt(sum(n**2 for n in norms.values()) / 3), rel=1e-3)


WORKFLOW = {
    "version": 0.4, "links": [], "groups": [], "last_node_id": 2, "last_link_id": 0,
    "nodes": [
        {"id": 1, "type": "StrataLoraStack", "pos": [420, 120], "size": [420, 400], "flags": {}, "order": 0, "mode": 0,
         "properties": {"models": [{"name": "not here.safetensors", "directory": "loras",
                                    "url": "https://huggingface.co/x/y/resolve/main/not%20here.safetensors"}]},
         "widgets_values": ["<lora:sd15:1>\n<lora:not here:0.5>\noff <lora:neither:1>\n<lora:old/sd15:1>\noff lock # Off\n"
                            "<lora:nor this:1>\n# On", 0, "fixed", "auto", "error"]},
        {"id": 2, "type": "StrataLoraFromPrompt", "pos": [900, 120], "size": [400, 300], "flags": {}, "order": 1, "mode": 0,
         "properties": {}, "widgets_values": ["a cat, <lora:gone.pt:1>, <lora:flux:1>", "model:clip", "error"]},
    ],
}  # fmt: skip


# What the editor's window of missing models lists.
MISSING = (
    "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('missingModel')"
    ".missingModelCandidates?.map(({name, url, directory}) => [name, url ?? null, directory ?? null])"
)


def test_missing_files_are_in_comfyuis_own_list_with_its_download_button(page):
    page.evaluate("(it) => app.loadGraphData(it, true, false, app.extensionManager.workflow.activeWorkflow)", WORKFLOW)
    page.wait_for_function(f"() => {MISSING}?.length === 2")
    # Not the ones that are off, by themselves or with their group, and not the one that lies in another folder here.
    url = WORKFLOW["nodes"][0]["properties"]["models"][0]["url"]
    assert sorted(page.evaluate(f"() => {MISSING}")) == [
        ["gone.pt", None, None],
        ["not here.safetensors", url, "loras"],
    ]
    page.get_by_text("View details").click()
    page.get_by_text("Download", exact=True).first.wait_for()
    # They say nothing to the prompt and are not saved.
    saved = page.evaluate("() => app.graph.nodes.map((node) => node.serialize().widgets_values.length)")
    assert saved == [5, 3]
    assert not [name for name in d.prompt(page, "1") if "file" in name]
    d.choose(page, "1", "rows", "<lora:sd15:1>")
    page.wait_for_function(f"() => {MISSING}?.length === 1")
    d.choose(page, "2", "text", "a cat")
    page.wait_for_function(f"() => !{MISSING}?.length")


def test_a_file_that_came_after_the_page_was_loaded_is_not_missing(page, server):
    folder = server.base / "models" / "loras"
    shutil.copy(folder / "sd15.safetensors", folder / "arrived.safetensors")
    try:
        workflow = copy.deepcopy(WORKFLOW)
        workflow["nodes"][0]["widgets_values"][0] = "<lora:arrived:1>"
        workflow["nodes"][1]["widgets_values"][0] = "a cat, <lora:arrived:1>"
        page.evaluate(
            "(it) => app.loadGraphData(it, true, false, app.extensionManager.workflow.activeWorkflow)", workflow
        )
        s.row(page, "1", 0).wait_for()
        d.rest(page, 3000)  # what is missing is shown late
        told = page.evaluate(f"() => {MISSING}")
        assert not told
        listed = "() => app.graph.nodes.flatMap((node) => node.widgets.filter((w) => w.name.startsWith('strata_file_')).length)"
        assert page.evaluate(listed) == [0, 0]
        # What the picker shows is here too, at once.
        shutil.copy(folder / "sd15.safetensors", folder / "later.safetensors")
        s.act(page, "1", "addLora").click()
        page.keyboard.type("later")
        page.locator(".strata-choice:not(.waiting)", has_text="later").first.wait_for()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => app.graph.getNodeById('1').widgets.find((w) => w.name === 'rows').value.includes('<lora:later:1>')"
        )
        d.rest(page, 500)
        assert page.evaluate(listed) == [0, 0] and not page.evaluate(f"() => {MISSING}?.length")
    finally:
        for name in ("arrived", "later"):
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
