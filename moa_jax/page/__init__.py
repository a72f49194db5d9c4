"""A page to play with: `python -m moa_jax.page`.

`prompt`, `setup` and `link` are what a person asks for, `people` the pictures, `jobs` and `studio`
draw one after the other, `session` is what one visitor has, `views` its HTML, and `app` the page.
Only `app` and `uploads` know Gradio, which the extra `page` installs.
"""
