"""Sources and their fluxes: sky, detection, point-spread function, PSF and aperture photometry, zero point."""
