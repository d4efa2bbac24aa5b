mkdir dir; echo i > dir/inner; ln -s dir link; ln -s dir/inner file
