"""python -m mnist_fastai"""

from mnist_fastai.cli import main

if __name__ == "__main__":
    main()
