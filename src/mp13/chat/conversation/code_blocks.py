"""The blocks of code in an answer, as they are copied."""


def code_blocks(text: str) -> list[str]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse(text)
    return [token.content.rstrip("\n") for token in tokens if token.type in ("fence", "code_block") and token.content]
