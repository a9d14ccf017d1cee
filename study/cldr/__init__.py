"""The embedded benchmark: parallel four-option questions in 49 languages, made from Unicode CLDR.

Nothing is downloaded and nothing generated is shipped: names and facts come from the installed `babel`
package (CLDR data, Unicode License v3: https://www.unicode.org/license.txt), question templates from
`templates.tsv` beside this file. The same Babel gives the same bytes under any PYTHONHASHSEED.

    facts.py         what is asked (subject, thing, answer, distractors), and the names of things
    benchmark.py     evaluation rows in Global-MMLU's columns
    instructions.py  English instruction rows and multilingual pretraining rows in Alpaca's columns
"""

import hashlib

DATA_VERSION = "1"
"""Raised by hand whenever the generated text changes; a golden test guards it."""


def revision() -> str:
    """16 hex digits that change when the generated text may: with our data version and with Babel's."""
    import babel  # here, so that importing this package stays cheap

    return hashlib.sha256(f"{DATA_VERSION} babel {babel.__version__}".encode()).hexdigest()[:16]
