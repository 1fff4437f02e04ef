"""Class of the Higgs codec, imported from transformers with torchaudio or without.

The module of transformers imports torchaudio and uses one function of torchaudio, which resamples from 24 to 16 kHz.
torchaudio is no dependency, because a torchaudio fits only few versions and builds of torch.
"""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any

from higgs_audio_trainer.data.sinc_resampling import resample_sinc
from higgs_audio_trainer.third_party_imports import prepare_imports

_PACKAGE, _MODULE = "transformers.models.higgs_audio_v2_tokenizer", "modeling_higgs_audio_v2_tokenizer"
_TORCHAUDIO = SimpleNamespace(functional=SimpleNamespace(resample=resample_sinc))
_lock = Lock()


def higgs_codec_class() -> Any:
    """Return `transformers.HiggsAudioV2TokenizerModel`.

    The module of the class gets torchaudio if torchaudio loads. Otherwise the module gets `resample_sinc` in place of
    torchaudio, and no other module sees the replacement.

    Example:
        >>> higgs_codec_class().__name__
        'HiggsAudioV2TokenizerModel'
    """
    prepare_imports()  # imports torchaudio if it loads
    name = f"{_PACKAGE}.{_MODULE}"
    functions = getattr(sys.modules.get("torchaudio"), "functional", None)
    with _lock:
        if name in sys.modules or hasattr(functions, "resample"):
            module = import_module(name)
        else:
            module = _import_without_torchaudio(name)
    return module.HiggsAudioV2TokenizerModel


def _import_without_torchaudio(name: str) -> ModuleType:
    """Import a module whose `import torchaudio` gives our replacement.

    The import statement calls the `__import__` of the module's builtins. A replacement in `sys.modules` would do as
    well, but a thread that imports torchaudio at the same time would take the replacement for torchaudio.
    """
    spec = find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    vars(module)["__builtins__"] = vars(builtins) | {"__import__": _import}
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    setattr(import_module(_PACKAGE), _MODULE, module)
    return module


def _import(name: str, *args: Any, **kwargs: Any) -> Any:
    return _TORCHAUDIO if name == "torchaudio" else builtins.__import__(name, *args, **kwargs)
