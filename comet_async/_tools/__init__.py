"""Tools made with the library: the doctor, previews and reports."""
