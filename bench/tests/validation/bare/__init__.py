"""Bare loops, as an engineer would write them by hand: the other side of `agreement`.

Against torch, transformers, diffusers and peft alone: the libraries' own weights, one batch, one
reading of the clock before and one after. Nothing of the harness but the name of an argument that
transformers renamed. They are written for the sizes of the suite `quick`.
"""
