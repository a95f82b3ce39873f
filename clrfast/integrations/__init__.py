"""Adapters to training frameworks, one module each. Only the module of a framework imports that framework.

``clrfast.integrations.lightning``, ``.transformers`` (Hugging Face), ``.accelerate`` and ``.fastai``. Frameworks that
take any optimizer and any torch scheduler need no adapter; docs/integrations.md shows them all.
"""

__all__: list[str] = []
