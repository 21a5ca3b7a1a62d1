"""Features in place of images: computed once, read from files, joined; few-shot draws of them."""
