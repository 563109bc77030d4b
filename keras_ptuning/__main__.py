"""`python -m keras_ptuning`, which is the command `keras-ptuning`."""

from keras_ptuning_command import main

if __name__ == "__main__":
    main()
