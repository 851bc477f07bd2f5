touch file .wh.file
