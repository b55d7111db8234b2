"""HDF5 as Keras writes it: structures read and written without the HDF5 library; h5py copies the rest."""
