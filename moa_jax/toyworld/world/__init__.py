"""The renderer: who lives in the toy world, where, and what captions and numbers say of a scene.

`people` and `places` draw with `brush`; `scenes` puts them together. `descriptions` and `labels`
say what a scene shows; `views` and `arrays` prepare scenes for training.
"""
