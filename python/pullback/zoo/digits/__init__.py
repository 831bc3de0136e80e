"""A class-conditional pixel DDPM of handwritten digits at 16 x 16; see README.md here."""
