"""The op `gather_rows`: copies chosen rows of a matrix, such as some tokens' hidden states."""

FORMATS = ("f32",)
