"""Formats of JSON Schema as regular expressions, where llguidance's own accept too much or too little.

Each passes the JSON Schema test suite. `docs/structured.md` lists those that are narrower than the standard.
"""

from __future__ import annotations

_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_31 = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_30 = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_28 = "02-(?:0[1-9]|1[0-9]|2[0-8])"
_DATE = f"(?:{_YEAR}-(?:{_31}|{_30}|{_28})|{_LEAP_YEAR}-02-29)"
_HOUR_MINUTE = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
# No leap second: few programs read one.
_TIME = rf"{_HOUR_MINUTE}:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-]{_HOUR_MINUTE})"

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_H16 = "[0-9a-fA-F]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "(?:" + "|".join(
    [f"(?:{_H16}:){{6}}{_LS32}"]
    + [f"(?:(?:{_H16}:){{0,{5 - n - 1}}}{_H16})?::(?:{_H16}:){{{n}}}{_LS32}" for n in range(4, -1, -1)]
    + [f"::(?:{_H16}:){{5}}{_LS32}", f"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}", f"(?:(?:{_H16}:){{0,6}}{_H16})?::"]
) + ")"  # fmt: skip

_AN, _ANH = "[a-zA-Z0-9]", "[a-zA-Z0-9-]"
# A label with `--` in third place belongs to an internationalised name, whose letters no regular expression can check.
_LABEL = f"(?:{_AN}(?:{_ANH}?{_AN})?|{_AN}{_ANH}{_ANH}{_AN}|{_AN}{_ANH}(?:{_AN}{_ANH}|-{_AN}){_ANH}{{0,58}}{_AN})"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL})*"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_EMAIL = rf"(?:{_ATOM}(?:\.{_ATOM})*|{_QUOTED})@(?:{_HOSTNAME}|\[(?:{_IPV4}|IPv6:{_IPV6})\])"

FORMATS: dict[str, str] = {
    "date": _DATE,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "email": _EMAIL,
    "hostname": _HOSTNAME,
    "ipv6": _IPV6,
    "time": _TIME,
}
# llguidance's own definitions of these are right.
OTHER_FORMATS = frozenset(("duration", "ipv4", "uri", "uuid"))
MAX_HOSTNAME = 253
