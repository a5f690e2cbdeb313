"""A MODEL with live LoRAs where its weights are asked for: merged with another model, or saved.

Live LoRAs are not in the weights. A merge would keep them whole at every ratio, or lose them with the model that is merged in, and a
saved file would not hold them. So such a MODEL is of a class of its own, made from that of the MODEL that the LoRA was attached to (as
packs for other weight formats do), and puts its LoRAs into its patches before it hands anything on. ComfyUI's ``clone`` keeps the class.
"""

from __future__ import annotations

from collections.abc import Callable

from .internals import need

_classes: dict[type, type] = {}


def mark(model, into_patches: Callable) -> None:
    """Makes a cloned MODEL answer for its live LoRAs.

    into_patches: (model) -> None, moves the live LoRAs of a clone into its patches; raises StrataError where that cannot be.
    """
    kind = type(model)
    if not issubclass(kind, LiveModel):
        if kind not in _classes:
            attributes = {"without_live": kind, "into_patches": staticmethod(into_patches)}
            _classes[kind] = type(kind.__name__, (LiveModel, kind), attributes)
        model.__class__ = _classes[kind]


class LiveModel:
    """The methods of a ModelPatcher that merging and saving call."""

    without_live: type
    into_patches: Callable

    def _with_patches(self):
        clone = self.clone()
        self.into_patches(clone)
        return clone

    def add_patches(self, patches, strength_patch=1.0, strength_model=1.0):
        # A list is another model's weight with its patches; a strength_model scales what is there already.
        if strength_model != 1 or any(isinstance(patch, list) for patch in patches.values()):
            self.into_patches(self)
        return super().add_patches(patches, strength_patch, strength_model)

    def get_key_patches(self, filter_prefix=None):
        # Without a prefix it is ComfyUI's own hooks that ask, for the weights under the live LoRAs.
        if filter_prefix is None:
            return super().get_key_patches()
        return super(LiveModel, self._with_patches()).get_key_patches(filter_prefix)

    def state_dict_for_saving(self, *args, **kwargs):
        patched = self._with_patches()
        need("comfy.model_management", "load_models_gpu", "Saving a model with live LoRAs")([patched])
        return super(LiveModel, patched).state_dict_for_saving(*args, **kwargs)
