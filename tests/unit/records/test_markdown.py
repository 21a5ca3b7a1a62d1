from markdown_it import MarkdownIt

from records.markdown import inline, table


def test_a_table_is_read_back_cell_by_cell():
    rows = [("a | b", "1"), ("", inline("two\n lines"))]
    tokens = MarkdownIt("commonmark").enable("table").parse(table(("name", ""), rows))
    cells = [token.content for token in tokens if token.type == "inline"]
    assert cells == ["name", "", "a | b", "1", "", "two lines"]
    assert tokens[0].type == "table_open"
