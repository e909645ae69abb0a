"""Documents for people: values (model.py) rendered to Markdown and to one HTML file that loads nothing, by templates."""
