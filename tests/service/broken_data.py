"""Training data that is broken, each in one way, and what is said of it."""

import json
from typing import Any

USER, ASSISTANT = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "the dog"}
SYSTEM = {"role": "system", "content": "be brief"}
TALK = {"messages": [USER, ASSISTANT]}


def said(*messages: Any, **more: Any) -> str:
    return json.dumps({"messages": messages} | more)


def spoken(*pairs: tuple[str, str]) -> str:
    return json.dumps({"conversations": [{"from": speaker, "value": value} for speaker, value in pairs]})


GOOD, OTHER = said(USER, ASSISTANT), said(USER, ASSISTANT | {"content": "the fox"})
# The file's name, what is in it, the line that is named (None: the file as a whole), and what is said of it.
BROKEN: list[tuple[str, str | bytes, int | None, str]] = [
    # files
    ("a.jsonl", "", None, "is empty; give at least one sample"),
    ("a.jsonl", " \n\n\t\n", None, "holds nothing but white space"),
    ("a.jsonl", b"\xef\xbb\xbf", None, "holds nothing but white space"),
    ("a.json", "[]", None, "has no samples"),
    ("a.csv", "text\n", None, "has no samples"),
    ("a.txt", GOOD, None, "is of an unknown kind (.txt); give .jsonl, .json, .csv or .parquet"),
    ("data", GOOD, None, "is of an unknown kind (no suffix)"),
    ("a.jsonl", b"\x1f\x8b\x08\x00", None, "is compressed with gzip; unpack it: gunzip a.jsonl"),
    ("a.jsonl", b"\x28\xb5\x2f\xfd\x00", None, "is compressed with zstd"),
    ("a.json", b"PK\x03\x04", None, "is a zip archive"),
    ("a.jsonl", b"PAR1", None, "is a Parquet file; give it the suffix .parquet"),
    ("a.jsonl", GOOD.encode("utf-16"), None, "is written in UTF-16; save it as UTF-8"),
    ("a.csv", "text\nx\n".encode("utf-16-be"), None, "is no text, or not in UTF-8"),
    ("a.jsonl", GOOD.encode() + b"\n{\"text\": \"\xe9\"}", 2, "is not UTF-8 (byte 0xe9); save the file as UTF-8"),
    ("a.json", b"[\n" + GOOD.encode() + b",\n{\"text\": \"\xff\"}]", 3, "is not UTF-8 (byte 0xff)"),
    ("a.csv", b"text\na\nb\xe9\n", 3, "is not UTF-8 (byte 0xe9)"),
    # JSON
    ("a.jsonl", f"{GOOD}\n{{ ,", 2, "is not JSON (Expecting property name enclosed in double quotes, column 3)"),
    ("a.jsonl", f"{GOOD}\n{{'text': 'x'}}", 2, "is not JSON"),
    ("a.jsonl", f"{GOOD}\n{GOOD[:-9]}", 2, "is not JSON (Unterminated string"),
    ("a.jsonl", f"{GOOD},\n{GOOD}", 1, "is not JSON (Extra data"),
    ("a.jsonl", f"{GOOD}{GOOD}", 1, "is not JSON (Extra data"),
    ("a.jsonl", json.dumps(TALK, indent=2), 1, "begins an object that goes on in the next line; write one"),
    ("a.jsonl", f"{GOOD}\n\n" + '{"text": "a", "text": "b"}', 3, "has the key 'text' twice"),
    ("a.jsonl", f"{GOOD}\n" + "[" * 100_000, 2, "is nested too deeply"),
    ("a.jsonl", f"{GOOD}\n" + '{"text": ' + "9" * 5000 + "}", 2, "is not JSON (Exceeds the limit"),
    ("a.jsonl", f"{GOOD}\n17", 2, "is a number, not an object"),
    ("a.jsonl", f"{GOOD}\nnull", 2, "is null, not an object"),
    ("a.jsonl", f'{GOOD}\n"text"', 2, "is text, not an object"),
    ("a.json", f"[{GOOD}\n{OTHER}]", 2, "is not JSON (it has '{' where ',' or ']' is due)"),
    ("a.json", f"[{GOOD},\n{OTHER}", 2, "is not JSON (it ends where ',' or ']' is due)"),
    ("a.json", f"[{GOOD},\n{OTHER},\n]", 3, "is not JSON (Expecting value"),
    ("a.json", f"[{GOOD}]\n{GOOD}", 2, "goes on behind the list's end"),
    ("a.json", f"[\n{GOOD},\n3]", 3, "is a number, not an object"),
    ("a.json", "[\n\n" + '{"text": "x",\n"n": tru}]', 4, "is not JSON (Expecting value"),
    ("a.json", "[\n" + '{"text": "a",\n"text": "b"}]', 2, "has the key 'text' twice"),
    ("a.json", json.dumps({"data": [TALK]}), 1, "has the keys 'data', which is no known format"),
    # CSV
    ("a.csv", 'text\n"a', 2, "is not CSV (unexpected end of data)"),
    ("a.csv", 'text\n"a"b\n', 2, "is not CSV"),
    ("a.csv", "prompt,completion\na,b\nc\n", 3, "has 1 cells, and the header 2; put text with commas in double quotes"),
    ("a.csv", "prompt,completion\na,b,c\n", 2, "has 3 cells, and the header 2"),
    ("a.csv", "prompt;completion\na;b\n", 1, "separates its columns with semicolons"),
    ("a.csv", "prompt\tcompletion\na\tb\n", 1, "separates its columns with tabs"),
    ("a.csv", "text,text\na,b\n", 1, "names the column 'text' twice"),
    ("a.csv", "question,answer\na,b\n", 2, "has the keys 'question', 'answer', which is no known format"),
    ("a.csv", "messages\nhello\n", 2, "messages is text, and not a list in JSON"),
    ("a.csv", "prompt,completion\na,\n", 2, "completion is empty"),
    # formats and keys
    ("a.jsonl", "{}", 1, "has no keys, which is no known format"),
    ("a.jsonl", '{"mesages": []}', 1, "has no messages; is 'mesages' meant for it?"),
    ("a.jsonl", '{"prompt": "a", "response": "b"}', 1, "has no completion; add it"),
    ("a.jsonl", '{"instruction": "a", "ouput": "b"}', 1, "has no output; is 'ouput' meant for it?"),
    ("a.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}', 1, "is a preference between two answers"),
    ("a.jsonl", f'{GOOD}\n{{"text": "x"}}\n{{"text": "y"}}', 2, "is of the format text, and what came before it"),
    ("a.jsonl", '{"text": "x"}\n{"txet": "x"}', 2, "has 'txet', which is not known; is 'text' meant?"),
    ("a.jsonl", '{"text": null}', 1, "text is null"),
    ("a.jsonl", '{"text": ["x"]}', 1, "text is a list, not text"),
    ("a.jsonl", '{"text": " \\n"}', 1, "text is empty"),
    ("a.jsonl", '{"text": "a\\ud83d"}', 1, "text holds half a character ('\\ud83d')"),
    ("a.jsonl", '{"prompt": "", "completion": "b"}', 1, "prompt is empty"),
    ("a.jsonl", '{"prompt": 1, "completion": "b"}', 1, "prompt is a number, not text"),
    ("a.jsonl", json.dumps({"prompt": [USER], "completion": "b"}), 1, "are not both text or both messages"),
    ("a.jsonl", json.dumps({"prompt": [USER], "completion": [USER]}), 1, "message 2 is the user's, but message 1"),
    ("a.jsonl", '{"instruction": "a", "output": ""}', 1, "output is empty"),
    ("a.jsonl", '{"instruction": "a", "inputs": "x", "output": "b"}', 1, "has 'inputs', which is not known; is"),
    ("a.jsonl", '{"instruction": "a", "input": 5, "output": "b"}', 1, "input is a number, not text"),
    ("a.jsonl", '{"instruction": "a", "output": "b", "history": [["c", "d"]]}', 1, "has history, but earlier turns"),
    ("a.jsonl", said(USER, ASSISTANT, tools=[{"type": "function"}]), 1, "has tools, but tools are not rendered"),
    ("a.jsonl", said(USER, ASSISTANT, images=["x.png"]), 1, "has images, but images are not read"),
    # messages
    ("a.jsonl", said(), 1, "has no messages"),
    ("a.jsonl", '{"messages": "hello"}', 1, "messages is text, and not a list in JSON"),
    ("a.jsonl", '{"messages": {"role": "user"}}', 1, "messages is an object, not a list"),
    ("a.jsonl", said("hello", ASSISTANT), 1, "message 1 is text, not an object"),
    ("a.jsonl", said({"content": "x"}, ASSISTANT), 1, "message 1: has no role; add it"),
    ("a.jsonl", said({"role": "user"}, ASSISTANT), 1, "message 1: has no content; add it"),
    ("a.jsonl", said({"role": "user", "contents": "x"}, ASSISTANT), 1, "message 1: has 'contents', which is not known"),
    ("a.jsonl", said(USER | {"name": "Ann"}, ASSISTANT), 1, "message 1: has 'name', which is not known"),
    ("a.jsonl", said({"role": "robot", "content": "x"}), 1, "message 1: the role 'robot' is not known"),
    ("a.jsonl", said({"role": 3, "content": "x"}), 1, "message 1: the role 3 is not known"),
    ("a.jsonl", said(USER, {"role": "tool", "content": "x"}), 1, "message 2: the role 'tool' is not known"),
    ("a.jsonl", said(USER, {"role": "assistant", "content": None}), 1, "message 2: content is null"),
    ("a.jsonl", said(USER, {"role": "assistant", "content": ""}), 1, "message 2: content is empty"),
    ("a.jsonl", said(USER, {"role": "assistant", "content": " \n\t"}), 1, "message 2: content is empty"),
    ("a.jsonl", said({"role": "user", "content": ""}, ASSISTANT), 1, "message 1: content is empty"),
    ("a.jsonl", said({"role": "user", "content": [{"type": "text", "text": "x"}]}, ASSISTANT), 1, "content is a list"),
    ("a.jsonl", said(USER, ASSISTANT | {"tool_calls": [{"id": 1}]}), 1, "message 2: has tool_calls, but tools are"),
    ("a.jsonl", said(USER, ASSISTANT | {"weight": 0.5}), 1, "message 2: weight = 0.5 cannot be used"),
    ("a.jsonl", said(USER, ASSISTANT | {"weight": True}), 1, "message 2: weight = True cannot be used"),
    ("a.jsonl", said(USER | {"weight": 1}, ASSISTANT), 1, "message 1: weight = 1, but the user is never learned"),
    ("a.jsonl", said(USER, ASSISTANT | {"weight": 0}), 1, "has no answer to learn: the weight of each is 0"),
    ("a.jsonl", said(USER), 1, "ends with the user's message"),
    ("a.jsonl", said(SYSTEM), 1, "ends with the system's message"),
    ("a.jsonl", said(USER, ASSISTANT, USER), 1, "ends with the user's message"),
    ("a.jsonl", said(ASSISTANT, USER, ASSISTANT), 1, "message 1 is the assistant's, but there is nothing before it"),
    ("a.jsonl", said(SYSTEM, ASSISTANT), 1, "message 2 is the assistant's, but there is nothing before it"),
    ("a.jsonl", said(USER, USER, ASSISTANT), 1, "message 2 is the user's, but message 1 is the user's, too"),
    ("a.jsonl", said(USER, ASSISTANT, ASSISTANT), 1, "message 3 is the assistant's, but message 2 is the assistant's"),
    ("a.jsonl", said(USER, SYSTEM, ASSISTANT), 1, "message 2 is the system's, which may only be the first"),
    ("a.jsonl", said(SYSTEM, SYSTEM, USER, ASSISTANT), 1, "message 2 is the system's, which may only be the first"),
    ("a.jsonl", spoken(("human", "a"), ("function_call", "b")), 1, "message 2: the speaker 'function_call' is not"),
    ("a.jsonl", spoken(("gpt", "a"), ("human", "b"), ("gpt", "c")), 1, "message 1 is the assistant's, but there is"),
    ("a.jsonl", spoken(("human", "a"), ("gpt", "")), 1, "message 2: value is empty"),
    ("a.jsonl", '{"conversations": [{"from": "human", "text": "x"}]}', 1, "message 1: has 'text', which is not known"),
    ("a.jsonl", '{"conversations": []}', 1, "has no messages"),
]  # fmt: skip
