"""`python -m keras_ptuning` does what the command `keras-ptuning` does.

But Python imports the package first: even `--help` takes seconds, and TensorFlow may write to
standard error before the command can stop it.
"""

from keras_ptuning_command import main

if __name__ == "__main__":
    main()
