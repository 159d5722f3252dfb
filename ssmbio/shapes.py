"""The axis letters used in every signature and docstring.

B  batch rows                     L  positions along the sequence (1 batch row of `total` positions when packed)
D  channels of a layer            N  state size of one channel
G  groups that share B_t and C_t  K  taps of the short convolution
C  classes                        S  sequences of a packed row, delimited by `cu_seqlens` (S + 1 offsets)
V  vocabulary size
"""
