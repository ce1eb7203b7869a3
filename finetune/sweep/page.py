"""x"""


def page(name, results, study):
    return "<html>"
