"""Pictures of the desk for people to look at, in out/screens: families, renderers and themes. Checked only for what a machine can see."""

import desk_page as d
import pytest

pytestmark = pytest.mark.browser
TEXTS = {
    "sd15": "IN*=0.6, IN4=1, M0=0, OUT0-2=0.3, OUT3-5=1, OUT6-11=0.55, TE=0.8, default=1",
    "sdxl": "IN4-5=1, IN7-8=0.7, M0=0.5, OUT0-5=1, OUT6-8=-0.25, TE:clip_g=0.4, default=0",
    "flux": "D0-6=1, D7-12=0.5, D13-18=0.8, S*=0.9..0.2, S{7,12,16,20}=-0.3, TE=0.5, default=1",
    "z-image": "L*=0..1, L{3,9,17}=0, CR*=0.4, default=1",
    "wan": "B0-9=0.3, B10-24=1, B25-39=0.6, TE=0, default=1",
}


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("name", TEXTS)
def test_screens(page, name, theme):
    page.evaluate("(theme) => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    try:
        desk, loader = d.add_pair(page, f"{name}.safetensors")
        d.set_text(page, desk, TEXTS[name])
        page.wait_for_timeout(300)
        root = d.element(page, desk)
        box = root.bounding_box()
        for fader in (root.locator(".strata-fader").first, root.locator("[data-name=OTHER]")):
            place = fader.bounding_box()
            assert place["x"] >= box["x"] - 1
            assert place["x"] + place["width"] <= box["x"] + box["width"] + 1
            assert place["y"] + place["height"] <= box["y"] + box["height"] + 1
        d.screenshot(page, f"{name}-{d.renderer(page)}-{theme}", desk, loader)
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
