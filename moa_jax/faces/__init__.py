"""Faces in pictures: where they are, and how like each other two of them are.

`recognizer` says what a recognizer does and opens one by its name; `dlib_resnet`, `facenet` and
`auraface` are three. `yunet` finds faces for those that do not, and `align` turns a face upright.
Nothing here trains or draws, and no recognizer is part of the method.
"""
