"""What a study is: plain types, files and names. Nothing here imports torch."""
