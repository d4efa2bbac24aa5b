mkdir odd
echo 1 > 'odd/with space'; echo 2 > "$(printf 'odd/new\nline')"; echo 3 > "$(printf 'odd/\377\376')"; echo 4 > odd/ümläut
echo 5 > 'odd/back\slash'; echo 6 > 'odd/$dollar'; echo 7 > 'odd/#hash'; echo 8 > 'odd/[brackets]'; echo 9 > "odd/quote'\""
echo 10 > odd/...; echo 11 > odd/-dash; mkdir 'odd/*'; echo 12 > 'odd/*/?'
