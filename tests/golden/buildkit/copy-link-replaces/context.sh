mkdir dir; ln -s b dir/file; ln -s c dir/link
