"""The intermediate representation: types, kinds, functions, text form, verifier."""
