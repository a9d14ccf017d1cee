"""The embedded benchmark: parallel four-option questions in 49 languages, made from Unicode CLDR.

Nothing is downloaded and nothing generated is shipped: names and facts come from the installed `babel`
package (CLDR data, Unicode License v3: https://www.unicode.org/license.txt), question templates from
`templates.tsv` beside this file, under this project's own licence. The same Babel gives the same bytes under
any PYTHONHASHSEED.

Where the questions come from: for each country CLDR has the currency that is legal tender, the official
language, and its time zones, which are named after cities. A fact is asked about when there is exactly one
answer, the country is a sovereign state, the answer has a name in (nearly) all 49 languages, and in none of
them a city's name contains its country's. Facts that are disputed or out of date, and zones that are not
named after a city, cannot be recognised by a rule: `doubtful.tsv` lists them with the reason. Wrong options
are of the same kind, mostly from the same continent, and never right as well. The last of every seven
questions of a subject is in the split `dev`, the others are in `test`; English instructions are made from
facts that no `test` question asks about.

    names.py         names of countries, currencies and so on in a language
    facts.py         what the questions are about: subject, thing, answer, distractors
    benchmark.py     evaluation rows in Global-MMLU's columns
    instructions.py  English instruction rows and multilingual pretraining rows in Alpaca's columns
"""
