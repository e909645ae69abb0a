"""Teams, e-mail and a hundred more, through the library of that name."""
