"""The renderer: who lives in the toy world, where, and what captions and numbers say of a scene.

`people` and `places` draw with `brush`, `scenes` puts them together; `descriptions` and `labels`
say what is there; `views` and `arrays` prepare it for training.
"""
