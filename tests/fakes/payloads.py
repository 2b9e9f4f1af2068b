"""What a hostile model, file or engine might write to act on a terminal, to hide in it, or to be taken for markup.

Built at run time from code points, so that no tool that reads or shows this file meets the real thing.
"""

from itertools import product

ESC, CSI, OSC, DCS, ST, BEL = "\x1b", "\x9b", "\x9d", "\x90", "\x9c", "\x07"
FINALS = "@ABCDEFGHIJKLMPSTXZ`abcdefghilmnpqrstu"

C0 = [chr(code) for code in range(0x20) if code not in (0x09, 0x0A)] + ["\x7f"]
C1 = [chr(code) for code in range(0x80, 0xA0)]
BYTES = [bytes([code]).decode("utf-8", "surrogateescape") for code in (0x80, 0x9B, 0x9D, 0xC0, 0xFF)]
SURROGATES = ["\ud800", "\udfff", "\ud83d", "\udc80[31m"]

CSIS = [f"{ESC}[{parameters}{final}" for final, parameters in zip(FINALS, ["1337", "13;37"] * 30, strict=False)]
CSIS += [f"{CSI}1337{final}" for final in "ABHJKmhl"]
CSIS += [
    f"{ESC}[?1049l", f"{ESC}[?1000h", f"{ESC}[?2004l", f"{ESC}[?25l", f"{ESC}[6n", f"{ESC}[c", f"{ESC}[>c",
    f"{ESC}[21t", f"{ESC}[8;13;37t", f"{ESC}[20t", f"{ESC}[!p", f'{ESC}[61"p', f"{ESC}[13;37r", f"{ESC}[4i",
    f"{ESC}[5;53;73m", f"{ESC}[31m red {ESC}[0m", f"{ESC}[38:2::1:3:37m", f"{ESC}[>4;2m", f"{ESC}[=7u", f"{ESC}[13 q",
    f"{ESC}[", f"{ESC}[13;", f"{ESC}[\x07m", f"{ESC}[1{ESC}[3m",
]  # fmt: skip
OSCS = [
    f"{start}{body}{end}"
    for body, (start, end) in product(
        [
            "0;evil title", "2;evil title", "4;1;#133713", "7;file://evil/", "8;;http://evil.example/",
            "8;id=13;file:///etc/passwd", "9;evil", "10;?", "11;#133713", "52;c;ZXZpbA==", "52;p;?", "104", "133;A",
            "777;notify;evil;evil", "1337;File=name=ZXZpbA==:ZXZpbA==", "1337;RemoteHost=evil",
        ],
        [(f"{ESC}]", BEL), (f"{ESC}]", f"{ESC}\\"), (OSC, ST)],
    )
]  # fmt: skip
OSCS += [f"{ESC}]0;never ended", f"{ESC}]8;;http://evil.example/{ESC}\\link{ESC}]8;;{ESC}\\", f"{ESC}]"]
STRINGS = [f"{ESC}{kind}evil{ESC}\\" for kind in "PX^_"] + [f"{chr(code)}evil{ST}" for code in (0x90, 0x98, 0x9E, 0x9F)]
STRINGS += [f"{ESC}P$q q{ESC}\\", f"{ESC}P+q544e{ESC}\\", f"{ESC}Pq#0;2;0;0;0~-{ESC}\\", f"{ESC}_Ga=T;evil{ESC}\\"]
STRINGS += [f"{ESC}kevil{ESC}\\", f"{ESC}Ptmux;{ESC}{ESC}]0;evil{BEL}{ESC}\\", f"{DCS}evil", f"{ESC}_evil"]
SINGLES = [f"{ESC}{final}" for final in "78=>cDEHMNOZnop|}~"] + [f"{ESC}#8", f"{ESC}(0", f"{ESC} F", f"{ESC}%G", ESC]
NESTED = [
    f"{ESC}{ESC}[31m",
    f"{ESC}[{ESC}[31m31m",
    f"{ESC}\x00[31m",
    f"{ESC}]{ESC}]0;a{BEL}0;evil{BEL}",
    "\x1b\u200b[31m",
]
RETURNS = ["safe\revil", "safe\b\b\b\bevil", "a\x0bb\x0cc", "\x0e\x0f", "a\x85b", "safe\x1b[1K\revil"]

BIDI = [chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
BIDI += ["\u202eevil\u202c", "a\u2067b\u2066c\u2069\u2069"]
UNSEEN = [chr(code) for code in (0xAD, 0x200B, 0x2028, 0x2029, 0x2060, 0x2062, 0x206A, 0x3164, 0xFEFF, 0xFFA0, 0xFFF9)]
TAGS = ["".join(chr(0xE0000 + ord(letter)) for letter in "evil"), "\U000e0001", "\U0001f3f4" + "\U000e0065" * 30]

ENTITIES = [f"&#{code};" for code in (7, 8, 12, 27, 127, 128, 155, 157, 0x200B, 0x202E, 0x2066, 0xE0041, 0xD800)]
ENTITIES += [
    "&#x1b;[31m",
    "&#x9b;31m",
    "&#x1B;]0;evil&#7;",
    "&#x202e;evil",
    "&#0;",
    "&rlm;evil",
    "&lrm;",
    "&ZeroWidthSpace;",
]
PERCENT = ["%1b[31m", "%9b31m", "\\x1b[31m", "\\u001b[31m", "\\033[31m", "^[[31m"]

ESCAPES = [*C0, *C1, *BYTES, *SURROGATES, *CSIS, *OSCS, *STRINGS, *SINGLES, *NESTED, *RETURNS, *BIDI, *UNSEEN, *TAGS]
ESCAPES += [*ENTITIES, *PERCENT]

# To be shown as they are.
MARKUP = [
    "[/]", "[bold]", "[/bold]", "[bold]x[/bold]", "[/red]", "[@click=app.quit]x[/]", "[@click=app.exit()]x", "[link=http://evil]x[/link]",
    "[$error]x[/]", "[on red]", "[[", "[]", "\\[bold]", "[b", "[#f00]x[/#f00]", "[@", "[=", "[a=b]",
]  # fmt: skip

PAYLOADS = [*ESCAPES, *MARKUP]
