"""The embedded benchmark: parallel four-option questions in 49 languages, made from Unicode CLDR.

Nothing is downloaded and nothing generated is shipped: names and facts come from the installed `babel`
package (CLDR data, Unicode License v3: https://www.unicode.org/license.txt), question templates from
`templates.tsv` beside this file, under this project's own licence. The same Babel gives the same bytes under
any PYTHONHASHSEED.

How a question comes about: CLDR says of a country which currency is tender, which language is official, and
which time zones, named by cities, lie in it. A fact is asked when there is just one answer, when the country
is a sovereign state, when the answer has a name in (nearly) all 49 languages, and when a city's name gives
its country away in none of them. What no rule tells from the rest but is disputed, out of date or no city is
left out by hand, with the reason, in `doubtful.tsv`. Wrong options are of the same kind, mostly from the same
continent, and never also right. The last of every seven questions of a subject is in the split `dev`, the
others are in `test`; English instructions are made from facts that no `test` question asks about.

    names.py         what things are called in a language
    facts.py         what is asked: subject, thing, answer, distractors
    benchmark.py     evaluation rows in Global-MMLU's columns
    instructions.py  English instruction rows and multilingual pretraining rows in Alpaca's columns
"""
