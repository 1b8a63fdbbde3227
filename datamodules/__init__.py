import torchvision_import  # noqa: F401  must precede the first import of torchvision by anyone
