"""Raw radar recordings: complex IQ samples to spectrograms in dB, and simulated recordings in the same formats.

The modules: ``radar`` (what the files hold, and how it is transformed: a preset or a YAML file), ``formats`` (read and
write ``.npy``, ``.bin``, ``.dat``), ``transform`` (range FFT, high-pass, range gate, STFT), ``sources`` (find
recordings and their users), ``convert`` (a folder of recordings to a data set of arrays), ``preview`` (its picture),
``simulate`` (recordings of simulated walks), ``verbs`` (the commands).
"""
