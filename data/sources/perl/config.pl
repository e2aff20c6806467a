use strict;
use warnings;

my $path = shift @ARGV;
my %config = (port => 80, host => 'local');

sub parse_line {
    my ($line) = @_;
    return if $line =~ /^#/;
    my ($key, $value) = split /=/, $line, 2;
    return ($key, $value);
}

if (defined $path) {
    open(my $handle, '<', $path) or die "cannot open: $!";
    while (my $line = <$handle>) {
        my ($key, $value) = parse_line($line);
        $config{$key} = $value if defined $key;
    }
    close($handle);
}
